"""Leave out a share of the picture in training (FLIP, Li et al. 2023): a step costs less, and so larger batches fit."""

from __future__ import annotations

import sys
from typing import Any

from timm.layers import PatchDropout, PatchDropoutWithIndices
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def set_patch_dropout(trunk: nn.Module, share: float) -> bool:
    """Drop this share of a vision transformer's patches in training mode; False where the trunk is none that can.

    Which patches is drawn by torch's global random numbers, anew for each picture. The class token and other tokens
    that are no patches stay, and so does at least one patch.

    Args:
        trunk: of open_clip or timm, as the library built it.
        share: in (0, 1).
    """
    module: Any = trunk
    if _is_open_clip_s(trunk):
        module.patch_dropout = PatchDropout(share, num_prefix_tokens=1)  # open_clip's own draws on the CPU always
    elif isinstance(trunk, VisionTransformer):
        module.patch_drop = PatchDropout(share, num_prefix_tokens=module.num_prefix_tokens)
    elif isinstance(trunk, Eva):  # its rotary positions need to know which patches are left
        module.patch_drop = PatchDropoutWithIndices(share, num_prefix_tokens=module.num_prefix_tokens)
    else:
        return False
    return True


def _is_open_clip_s(trunk: nn.Module) -> bool:
    if "open_clip" not in sys.modules:  # then none of its trunks was built; a model of timm alone should not import it
        return False
    from open_clip.transformer import VisionTransformer as ClipVisionTransformer

    return isinstance(trunk, ClipVisionTransformer)
