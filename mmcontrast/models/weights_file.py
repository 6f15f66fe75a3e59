"""Weights as safetensors, readable to whom the umask says: safetensors itself writes for the owner alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file, save_model
from torch import Tensor, nn

METADATA = {"format": "pt"}


def write_weights(weights: nn.Module | Mapping[str, Tensor], path: Path) -> None:
    """Write a module's weights, each shared one once, or named tensors that share nothing."""
    if isinstance(weights, nn.Module):
        save_model(weights, str(path), metadata=METADATA)
    else:
        save_file(dict(weights), str(path), metadata=METADATA)
    give_usual_mode(path)


def give_usual_mode(path: Path) -> None:
    """The permissions of a file that `open` would have made."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
