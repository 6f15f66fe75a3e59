"""Image-text contrastive training on your own pairs, that knows its negatives.

The names below are the public face; they load on first use, so that `import mmcontrast` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import embed as embed
    from .build import evaluate as evaluate
    from .build import export_model as export_model
    from .build import inspect_negatives as inspect_negatives
    from .build import push_to_hub as push_to_hub
    from .build import search as search
    from .build import train as train
    from .config import load_config as load_config
    from .data import open_source as open_source
    from .embedding_reading import load_features as load_features
    from .export.card_facts import CardAnswers as CardAnswers
    from .losses import symmetric_info_nce as symmetric_info_nce
    from .models import DualEncoder as DualEncoder

    __version__: str

_ROOMS = {
    "CardAnswers": "export.card_facts",
    "DualEncoder": "models",
    "embed": "build",
    "evaluate": "build",
    "export_model": "build",
    "inspect_negatives": "build",
    "load_config": "config",
    "load_features": "embedding_reading",
    "open_source": "data",
    "push_to_hub": "build",
    "search": "build",
    "symmetric_info_nce": "losses",
    "train": "build",
}

__all__ = [
    "CardAnswers",
    "DualEncoder",
    "__version__",
    "embed",
    "evaluate",
    "export_model",
    "inspect_negatives",
    "load_config",
    "load_features",
    "open_source",
    "push_to_hub",
    "search",
    "symmetric_info_nce",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("mmcontrast")
        except PackageNotFoundError:  # run from a checkout that is not installed
            return "0+unknown"
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
