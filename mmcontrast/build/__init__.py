"""The composition root: the only room that knows both the config and the objects."""

from .jobs import embed, evaluate, holds_quickstart, quickstart_config, train_tokenizer
from .negatives import inspect_negatives
from .run import Results, train

__all__ = [
    "Results",
    "embed",
    "evaluate",
    "holds_quickstart",
    "inspect_negatives",
    "quickstart_config",
    "train",
    "train_tokenizer",
]
