"""The composition root: the only room that knows both the config and the objects.

The names below load on first use: an evaluation need not import what trains or draws reports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .converting import to_webdataset as to_webdataset
    from .embedding import embed as embed
    from .exporting import export_model as export_model
    from .jobs import SharedWork as SharedWork
    from .jobs import evaluate as evaluate
    from .jobs import run_evaluation as run_evaluation
    from .merging import Sweep as Sweep
    from .merging import merge as merge
    from .merging import sweep as sweep
    from .negatives import inspect_negatives as inspect_negatives
    from .pushing import push_to_hub as push_to_hub
    from .quickstart import holds_quickstart as holds_quickstart
    from .quickstart import quickstart_config as quickstart_config
    from .run import Results as Results
    from .run import train as train
    from .tokenizing import train_tokenizer as train_tokenizer

_FILES = {
    "Results": "run",
    "SharedWork": "jobs",
    "Sweep": "merging",
    "embed": "embedding",
    "evaluate": "jobs",
    "export_model": "exporting",
    "holds_quickstart": "quickstart",
    "inspect_negatives": "negatives",
    "merge": "merging",
    "push_to_hub": "pushing",
    "quickstart_config": "quickstart",
    "run_evaluation": "jobs",
    "sweep": "merging",
    "to_webdataset": "converting",
    "train": "run",
    "train_tokenizer": "tokenizing",
}

__all__ = [
    "Results",
    "SharedWork",
    "Sweep",
    "embed",
    "evaluate",
    "export_model",
    "holds_quickstart",
    "inspect_negatives",
    "merge",
    "push_to_hub",
    "quickstart_config",
    "run_evaluation",
    "sweep",
    "to_webdataset",
    "train",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_FILES[name]}", __name__), name)
    globals()[name] = value
    return value
