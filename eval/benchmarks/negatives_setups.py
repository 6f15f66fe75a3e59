"""The data sets of the negatives benchmark: how each is trained on and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCENES = "scenes"


@dataclass(frozen=True)
class Setup:
    """How a data set is trained on and measured.

    Attributes:
        settings: its settings, with the share of each batch whose rows have their injected twin in it.
        batches: global batch sizes, the main one first.
        rows: of the training pairs.
        epochs: passes over them, at equal samples.
        label_column: the truth that only the oracle rules and the measuring may see.
        metrics: of `measure`, the first of which decides on the initial logit scale.
        config: sections of the run's config.
        templates: prompts of zero_shot.
    """

    settings: Mapping[str, float]
    batches: tuple[int, ...]
    rows: int
    epochs: int
    label_column: str | None
    metrics: tuple[str, ...]
    config: Mapping[str, Any]
    templates: tuple[str, ...] = ()
    validation_rows: int | None = None
    methods_left_out: frozenset[str] = field(default_factory=frozenset)


LABELLED = ("map@r", "image_to_text_map@r", "text_to_image_map@r", "acc1", "mean_recall")


def _towers(image_size: int, output_stride: int, vocab_size: int, dropout: float = 0.2) -> dict[str, Any]:
    """A small ResNet that keeps a map of its last stage, and a bag of words."""
    kwargs = {"channels": [32, 64, 128, 192], "stem_width": 16, "output_stride": output_stride}
    return {
        "embed_dim": 128,
        "image": {
            "library": "timm",
            "name": "resnet10t",
            "image_size": image_size,
            "kwargs": kwargs,
            "dropout": dropout,
        },
        "text": {"library": "bag_of_words", "context_length": 40, "dropout": dropout},
        "tokenizer": {"kind": "sentencepiece", "vocab_size": vocab_size},
    }


SETUPS: dict[str, Setup] = {
    "ucm_captions": Setup(
        settings={"natural": 0.0},
        batches=(128, 64, 256),
        rows=1680,
        epochs=14,
        label_column="label",
        metrics=LABELLED,
        config={
            "model": _towers(48, 16, 600),
            "data": {"crop_scale_min": 0.4, "rotate90": True},
            "training": {"learning_rate": 2e-3},
        },
        templates=("there is a {c}.", "this is a {c}.", "there are some {c}.", "a {c}."),
    ),
    "flickr8k": Setup(
        settings={"injected-0": 0.0, "injected-10": 0.1, "injected-30": 0.3, "injected-50": 0.5},
        batches=(128, 64, 256),
        rows=6000,
        epochs=4,
        label_column="twin",
        metrics=("mean_recall",),
        config={
            "model": _towers(48, 16, 2000),
            "data": {"crop_scale_min": 0.5},
            "training": {"learning_rate": 2e-3},
        },
    ),
    "cifar10": Setup(
        settings={"class-captions": 0.0},
        batches=(128, 64, 256),
        rows=4000,
        epochs=6,
        label_column="label_name",
        metrics=LABELLED[:-1],
        config={
            "model": _towers(32, 8, 300),
            "data": {"augmentation": "light"},
            "training": {"learning_rate": 2e-3},
        },
        templates=("a photo of a {c}", "this is a {c}"),
    ),
    SCENES: Setup(
        settings={"natural": 0.0},
        batches=(128, 64, 256),
        rows=2000,
        epochs=12,
        label_column=None,
        metrics=("map@r", "image_to_text_map@r", "text_to_image_map@r", "mean_recall"),
        config={
            "model": _towers(48, 16, 400),
            "data": {"horizontal_flip": False},
            "training": {"learning_rate": 2e-3},
        },
        validation_rows=400,
        # The truth about scenes is no equivalence: no label or group column can hold it.
        methods_left_out=frozenset({"oracle_mask", "oracle_positives"}),
    ),
}
