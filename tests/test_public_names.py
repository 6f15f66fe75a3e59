"""The face of the package: few names, loaded when used."""

from __future__ import annotations

import pytest

import mmcontrast


def test_names_are_listed_before_they_are_loaded() -> None:
    assert set(mmcontrast.__all__) <= set(dir(mmcontrast))


@pytest.mark.parametrize("name", mmcontrast.__all__)
def test_every_name_loads(name: str) -> None:
    value = getattr(mmcontrast, name)
    assert isinstance(value, str) if name == "__version__" else callable(value)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'mmcontrast' has no attribute 'trian'"):
        _ = mmcontrast.trian
