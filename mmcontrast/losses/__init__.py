"""Losses as pure functions of tensors; this room imports nothing of ours."""

from .contrastive import info_nce, symmetric_info_nce
from .sigmoid import sigmoid_loss

__all__ = ["info_nce", "sigmoid_loss", "symmetric_info_nce"]
