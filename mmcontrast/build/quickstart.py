"""The run that people try first."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from mmcontrast.config import load_config
from mmcontrast.errors import MMContrastError


def quickstart_config() -> Path:
    """configs/quickstart.yaml, in a checkout or in the installed package."""
    checkout = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    if checkout.is_file():
        return checkout
    return Path(str(importlib.resources.files("mmcontrast") / "configs" / "quickstart.yaml"))


def holds_quickstart(folder: str | Path) -> bool:
    """Whether a folder holds nothing that is lost by a new quickstart: an earlier one."""
    try:
        sources = [load_config(place).data.sources[0] for place in (Path(folder), quickstart_config())]
        return sources[0].path == sources[1].path
    except MMContrastError:
        return False
