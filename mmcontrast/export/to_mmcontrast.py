"""Our own folder within an export, so that `DualEncoder.from_pretrained` loads it from there or from the Hub."""

from __future__ import annotations

from pathlib import Path

from mmcontrast.models import DualEncoder

SUBFOLDER = "mmcontrast"


def write(model: DualEncoder, folder: Path) -> None:
    """Write mmcontrast/, as `save_pretrained` does; every model can be expressed."""
    model.save_pretrained(folder / SUBFOLDER)
