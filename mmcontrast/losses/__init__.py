"""Losses as pure functions of tensors; this room imports nothing of ours."""

from .contrastive import info_nce, symmetric_info_nce
from .sigmoid import sigmoid_loss
from .tiled_info_nce import tiled_info_nce
from .tiled_sigmoid import tiled_sigmoid_loss
from .tiles import Tiles

__all__ = ["Tiles", "info_nce", "sigmoid_loss", "symmetric_info_nce", "tiled_info_nce", "tiled_sigmoid_loss"]
