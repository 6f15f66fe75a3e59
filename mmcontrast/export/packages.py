"""Packages that only some formats need."""

from __future__ import annotations

from importlib.util import find_spec

from mmcontrast.errors import ModelError


def need(name: str, *packages: str) -> None:
    """Raise ModelError unless the packages of the format `name` are installed; none of them is imported."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ModelError(f"the format {name} needs {', '.join(missing)}: pip install 'mmcontrast[export]'")
