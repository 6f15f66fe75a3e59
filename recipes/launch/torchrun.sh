#!/usr/bin/env bash
# One machine, all of its GPUs: bash recipes/launch/torchrun.sh configs/flickr8k.yaml --set training.precision=bf16
# PROCESSES=2 takes so many; without a GPU it is also how several CPU processes train together.
set -euo pipefail
exec torchrun --standalone --nproc_per_node "${PROCESSES:-gpu}" -m mmcontrast train "$@"
