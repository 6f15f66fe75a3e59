"""Objective, optimiser, checkpoints and the loop."""
