"""Config -> objects, one function a part."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, LoggerType, ProjectConfiguration

from mmcontrast import distributed
from mmcontrast.build.captions import all_captions
from mmcontrast.build.fine_tuning import starting_model
from mmcontrast.config import Config, MixedSourceConfig, SourceConfig
from mmcontrast.data import PairSource, PairStream, mix_streams, open_source, open_stream
from mmcontrast.data.steady import Patience
from mmcontrast.errors import ConfigError, DataError, TrainingError
from mmcontrast.models import (
    ClipTokenizer,
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    Tokenizer,
    TransformersTokenizer,
    build_dual_encoder,
    load_tokenizer,
    save_tokenizer,
    train_sentencepiece,
)

MAX_CAPTION_WORDS = 20_000


def caption_columns(config: Config) -> list[str] | None:
    """The configured caption columns as a list."""
    return _as_list(config.data.caption_column)


def _as_list(columns: str | list[str] | None) -> list[str] | None:
    return [columns] if isinstance(columns, str) else columns


def open_pairs(config: Config, which: SourceConfig) -> PairSource:
    """The map-style source of `data.train` or `data.validation`.

    Raises:
        DataError: too large a share of its rows cannot be used.
    """
    data = config.data
    source = open_source(which.path, **source_options(config, which))
    bad, rows = len(source.bad_rows), len(source) + len(source.bad_rows)
    if bad > data.max_bad_row_share * rows:
        first = source.bad_rows[0]
        raise DataError(
            f"{which.path}: {bad} of {rows} rows cannot be used, over data.max_bad_row_share "
            f"({data.max_bad_row_share:.0%}); the first is row {first.row}: {first.reason}"
        )
    return source


def open_training(config: Config) -> PairSource | PairStream:
    """The pairs of `data.train`, as they are to be read."""
    if config.data.streaming:
        return open_pair_stream(config)
    (source,) = config.data.sources  # several are mixed in a stream only
    return open_pairs(config, source)


def open_pair_stream(config: Config) -> PairStream:
    """The stream of `data.train`, or the mixture of its sources."""
    data = config.data
    patience = Patience(retries=data.read_retries, timeout=data.read_timeout_seconds)
    streams: list[PairStream] = []
    for source in data.sources:
        first = sum(stream.num_files for stream in streams)
        options = source_options(config, source)
        streams.append(open_stream(source.path, **options, patience=patience, first_file=first))
    if not isinstance(data.train, list):
        return streams[0]
    return mix_streams(streams, [source.weight for source in data.train], config.training.seed)


def source_options(config: Config, which: SourceConfig) -> dict[str, Any]:
    """How a set of pairs is read, as arguments of `open_source` and `open_stream`."""
    data = config.data
    options = {
        "format": which.format,
        "split": which.split,
        "rows": which.rows,
        "image_column": data.image_column,
        "caption_columns": caption_columns(config),
        "label_column": data.label_column,
        "group_column": data.group_column,
        "seed": config.training.seed,
    }
    if isinstance(which, MixedSourceConfig):
        own = {
            "image_column": which.image_column,
            "caption_columns": _as_list(which.caption_column),
            "label_column": which.label_column,
            "group_column": which.group_column,
        }
        options |= {name: value for name, value in own.items() if value is not None}
    return options


def describe(source: PairSource | PairStream) -> str:
    """One line on what was found where: rows, columns, and which of them were guessed."""
    if isinstance(source, PairStream) and source.mixture is not None:
        shares = zip(source.parts, source.mixture.shares, strict=True)
        mixed = "; ".join(f"{share:.1%} {part.name}, {part.columns.describe()}" for part, share in shares)
        return f"a mixture of {len(source.parts)} streams: {mixed}"
    columns = source.columns.describe()
    if isinstance(source, PairStream):
        return f"{source.name}: a stream; {columns}"
    bad = f", {len(source.bad_rows)} bad rows left out" if source.bad_rows else ""
    return f"{source.name}: {len(source)} rows{bad}; {columns}"


def num_items(config: Config, source: PairSource | PairStream) -> int | None:
    """Items of an epoch: rows, or all their captions with `data.caption_sampling: all`; None for a stream."""
    if isinstance(source, PairStream):
        return None
    if config.data.caption_sampling == "random":
        return len(source)
    return sum(len(source.captions(i)) for i in range(len(source)))


def make_tokenizer(config: Config, source: PairSource | PairStream, folder: Path) -> Tokenizer:
    """The configured tokenizer; a SentencePiece one is trained on the captions and kept in `folder`.

    The first rank trains, the others wait and load, so that all have the same vocabulary.
    """
    settings, context_length = config.model.tokenizer, config.model.text.context_length
    if settings.kind == "clip":
        return ClipTokenizer(context_length)
    if settings.kind == "transformers":
        assert settings.name is not None
        return TransformersTokenizer(settings.name, context_length)
    if settings.name is not None:
        file = Path(settings.name).expanduser()
        # `mmcontrast tokenizer train` writes a folder; the context length is this model's, not that of then.
        return SentencePieceTokenizer.from_file(file / "sentencepiece.model" if file.is_dir() else file, context_length)
    if distributed.rank() == 0 and not folder.exists():
        model = train_sentencepiece(all_captions(source), settings.vocab_size, seed=config.training.seed)
        aside = folder.with_name(f".{folder.name}.part")  # a run that dies here must not leave half a tokenizer
        save_tokenizer(SentencePieceTokenizer(model, context_length), aside)
        os.replace(aside, folder)
    distributed.barrier()
    return load_tokenizer(folder)


def model_spec(config: Config) -> ModelSpec:
    """The `model` section as the models room wants it."""
    model = config.model
    return ModelSpec(
        embed_dim=model.embed_dim,
        image=ImageTowerSpec(**model.image.model_dump()),
        text=TextTowerSpec(**model.text.model_dump()),
        logit_scale=model.logit_scale,
        logit_scale_learnable=model.logit_scale_learnable,
        logit_scale_max=model.logit_scale_max,
        logit_bias=model.logit_bias,
    )


def make_model(config: Config, source: PairSource | PairStream, tokenizer_folder: Path) -> DualEncoder:
    """A new dual encoder from the config, or the one of `model.init_from`."""
    if config.model.init_from is not None:
        model = starting_model(config)
    else:
        tokenizer = make_tokenizer(config, source, tokenizer_folder)
        model = build_dual_encoder(model_spec(config), tokenizer, seed=config.training.seed)
    model.extra["caption_words"] = caption_words(source)
    able = model.set_gradient_checkpointing(config.training.gradient_checkpointing)
    if config.training.gradient_checkpointing and not able:
        raise ConfigError(
            "training.gradient_checkpointing: neither tower can do it (locked towers keep no activations, and bags of "
            "words and some convolutional nets cannot recompute theirs); turn it off"
        )
    return model


def make_accelerator(config: Config, folder: Path) -> Accelerator:
    """The accelerator, with the run's precision and trackers."""
    check_trackers(config.training.trackers)
    # Not a round number: Accelerate drops what equals its default, which then is another one for gloo.
    timeout = timedelta(seconds=config.training.process_timeout_seconds, microseconds=1)
    # Accelerate keeps the precision of a program's first run and refuses another one in a second run.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        # Without being told, Accelerate does not join the processes of torchrun on a machine without a GPU.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=precision(config.training.precision),
        log_with=config.training.trackers or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tensorboard")),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
    )
    if accelerator.num_processes != distributed.world_size():
        raise TrainingError(
            f"{distributed.world_size()} processes were started, but Accelerate trains on {accelerator.num_processes}"
        )
    return accelerator


def check_trackers(names: Sequence[str]) -> None:
    """Accelerate drops a tracker whose package is missing without a word."""
    known = [str(name) for name in LoggerType if name != LoggerType.ALL]
    for name in names:
        if name not in known:
            raise ConfigError(f"training.trackers: {name!r} is unknown; choose of {', '.join(known)}")
        if name not in map(str, get_available_trackers()):
            raise ConfigError(f"training.trackers: the package of {name} is not installed; install it or leave it out")


def precision(setting: str) -> str:
    """Accelerate's name of a precision; "auto" is bf16 where the GPU has it and plain fp32 elsewhere.

    On a CPU without matrix units bf16 is many times slower than fp32, so a CPU never gets it unasked.
    """
    if setting == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    if setting == "fp16" and not torch.cuda.is_available():
        raise ConfigError("training.precision: fp16 needs a GPU; take fp32 (or bf16) here")
    return {"fp32": "no"}.get(setting, setting)


def precision_name(accelerator: Accelerator) -> str:
    """The precision in the config's words, "auto" resolved."""
    return "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)


def caption_words(source: PairSource | PairStream) -> list[str]:
    """The most frequent words of the captions, in alphabetical order; saved with the model.

    They say how class names such as "tenniscourt" fall into words, which a small vocabulary of pieces does not know.
    """
    counts: Counter[str] = Counter()
    for caption in all_captions(source):
        counts.update(re.findall(r"[^\W\d_]{2,}", caption.lower()))
    return sorted(word for word, count in counts.most_common(MAX_CAPTION_WORDS) if count > 1)
