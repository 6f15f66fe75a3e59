"""The data sets of the negatives benchmark: how each is trained on and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCENES = "scenes"
TOWER = "tf_efficientnet_lite0"
TICKET = 8
"""Side in pixels of what stands in the place of a picture for that tower; see `negatives_encoder`."""


@dataclass(frozen=True)
class Setting:
    """A way to train on a data set.

    Attributes:
        twins: share of each batch whose rows have their injected twin in it.
        pretrained: on a frozen image tower that was trained on other pictures, instead of a small one from scratch.
        tuned: with each method's best initial logit scale, instead of CLIP's for all, as those have it who do not tune.
    """

    twins: float = 0.0
    pretrained: bool = False
    tuned: bool = True

    @property
    def encoder(self) -> str:
        """Which image tower."""
        return "pretrained" if self.pretrained else "scratch"


@dataclass(frozen=True)
class Setup:
    """How a data set is trained on and measured.

    Attributes:
        settings: its settings by name.
        batches: global batch sizes, the main one first.
        rows: of the training pairs.
        epochs: passes over them, at equal samples.
        pretrained_epochs: the same with the pretrained tower.
        label_column: the truth that only the oracle rules and the measuring may see.
        metrics: of `measure`, the first of which decides on the initial logit scale.
        config: sections of the run's config.
        pretrained: what is laid over them with the pretrained tower.
        templates: prompts of zero_shot.
    """

    settings: Mapping[str, Setting]
    batches: tuple[int, ...]
    rows: int
    epochs: int
    label_column: str | None
    metrics: tuple[str, ...]
    config: Mapping[str, Any]
    pretrained: Mapping[str, Any] = field(default_factory=dict)
    pretrained_epochs: int = 0
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


def _pretrained(dropout: float) -> dict[str, Any]:
    """A frozen tower with a trained head, on tickets; see `negatives_encoder`."""
    tower = {"name": TOWER, "image_size": TICKET, "projection": "mlp", "dropout": dropout}
    return {
        "model": {"image": tower},
        "data": {"augmentation": "none", "crop_scale_min": None},
        "training": {"learning_rate": 1e-3},
    }


SETUPS: dict[str, Setup] = {
    "ucm_captions": Setup(
        settings={
            "natural": Setting(),
            "pretrained": Setting(pretrained=True),
            "pretrained-untuned": Setting(pretrained=True, tuned=False),
        },
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
        pretrained=_pretrained(0.3),
        pretrained_epochs=20,
        templates=("there is a {c}.", "this is a {c}.", "there are some {c}.", "a {c}."),
    ),
    "flickr8k": Setup(
        settings={
            f"{name}injected-{percent}": Setting(percent / 100, pretrained, tuned=not pretrained)
            for pretrained, name in ((False, ""), (True, "pretrained-"))
            for percent in (0, 10, 30, 50)
        },
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
        pretrained=_pretrained(0.3),
        pretrained_epochs=10,
    ),
    "cifar10": Setup(
        settings={
            "class-captions": Setting(),
            "pretrained": Setting(pretrained=True),
            "pretrained-untuned": Setting(pretrained=True, tuned=False),
        },
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
        pretrained=_pretrained(0.3),
        pretrained_epochs=8,
        templates=("a photo of a {c}", "this is a {c}"),
    ),
    SCENES: Setup(
        settings={"natural": Setting()},
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
