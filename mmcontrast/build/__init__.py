"""The composition root: the only room that knows both the config and the objects.

The names below load on first use: an evaluation need not import what trains or draws reports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparing import compare as compare
    from .converting import to_webdataset as to_webdataset
    from .embedding import embed as embed
    from .exporting import export_model as export_model
    from .heat_maps import heatmap as heatmap
    from .intervals import interval_document as interval_document
    from .intervals import scored_intervals as scored_intervals
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
    from .searching import open_search as open_search
    from .searching import search as search
    from .serving import open_demo as open_demo
    from .tokenizing import train_tokenizer as train_tokenizer

_FILES = {
    "Results": "run",
    "SharedWork": "jobs",
    "Sweep": "merging",
    "compare": "comparing",
    "embed": "embedding",
    "evaluate": "jobs",
    "export_model": "exporting",
    "heatmap": "heat_maps",
    "holds_quickstart": "quickstart",
    "inspect_negatives": "negatives",
    "interval_document": "intervals",
    "merge": "merging",
    "open_demo": "serving",
    "open_search": "searching",
    "push_to_hub": "pushing",
    "quickstart_config": "quickstart",
    "run_evaluation": "jobs",
    "scored_intervals": "intervals",
    "search": "searching",
    "sweep": "merging",
    "to_webdataset": "converting",
    "train": "run",
    "train_tokenizer": "tokenizing",
}

__all__ = [
    "Results",
    "SharedWork",
    "Sweep",
    "compare",
    "embed",
    "evaluate",
    "export_model",
    "heatmap",
    "holds_quickstart",
    "inspect_negatives",
    "interval_document",
    "merge",
    "open_demo",
    "open_search",
    "push_to_hub",
    "quickstart_config",
    "run_evaluation",
    "scored_intervals",
    "search",
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
