"""What a dual encoder is made of, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

from mmcontrast.errors import ModelError

ImageLibrary = Literal["timm", "open_clip", "transformers"]
TextLibrary = Literal["open_clip", "transformers", "bag_of_words"]
Projection = Literal["linear", "mlp", "none"]

INITIAL_LOGIT_SCALE = 1 / 0.07


def _check_choice(where: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelError(f"{where} is {value!r}; choose one of {', '.join(choices)}")


_NUMBER = (int, float)
_KINDS: dict[str, tuple[type, ...]] = {
    "embed_dim": (int,),
    "image_size": (int,),
    "context_length": (int,),
    "logit_scale": _NUMBER,
    "logit_scale_max": _NUMBER,
    "logit_bias": (*_NUMBER, type(None)),
    "logit_scale_learnable": (bool,),
    "name": (str, type(None)),
    "pretrained": (bool, str),
    "kwargs": (dict,),
    "dropout": _NUMBER,
    "locked": (bool,),
    "patch_dropout": _NUMBER,
    "rank": (int,),
    "alpha": (*_NUMBER, type(None)),
}
_LARGEST = 1 << 20
"""Of sizes: no tower is larger, and what a damaged or hostile file says would fill the memory."""


def _check_kinds(where: str, spec: Any) -> None:
    """Plain values may come from a file that somebody else wrote."""
    for one in fields(spec):
        value: Any = getattr(spec, one.name)
        kinds = _KINDS.get(one.name)
        if kinds is None:
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ModelError(f"{where}.{one.name} is {value!r:.100}, of which no model can be built")
        if kinds == (int,) and isinstance(value, int) and value > _LARGEST:
            raise ModelError(f"{where}.{one.name} is {value!r:.100}; no tower is larger than {_LARGEST}")


def _known_keys(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ModelError(f"{where} is {values!r:.100}, not a section of keys")
    known = {f.name for f in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ModelError(f"{where} has unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return dict(values)


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank adapters of a tower (LoRA), trained in place of its own weights.

    Attributes:
        rank: of each adapter.
        alpha: adapters count alpha / rank; None takes 2 * rank.
        dropout: on the input of each adapter.
        targets: names of the linear layers, ends of them ("mlp.c_fc"), or modules that they are in ("attn"); None
            takes all that the tower calls.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_kinds("lora", self)
        if self.rank < 1:
            raise ModelError(f"lora.rank is {self.rank}; it must be at least 1")
        if self.alpha is not None and not self.alpha > 0:
            raise ModelError(f"lora.alpha is {self.alpha}; it must be positive")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"lora.dropout is {self.dropout}; it must be in [0, 1)")
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(self.targets))
            if not self.targets:
                raise ModelError("lora.targets is empty; name layers, or leave it out for all linear ones")

    @property
    def scale_numerator(self) -> float:
        """Alpha, where it was given or not."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


def _make_lora(spec: ImageTowerSpec | TextTowerSpec, where: str) -> None:
    """Accept the adapters as a mapping, and refuse what contradicts them."""
    if isinstance(spec.lora, Mapping):
        object.__setattr__(spec, "lora", LoraSpec(**_known_keys(LoraSpec, spec.lora, f"{where}.lora")))
    if spec.lora is not None and not isinstance(spec.lora, LoraSpec):
        raise ModelError(f"{where}.lora is {spec.lora!r:.100}, not a section of keys")
    if spec.lora is not None and spec.locked:
        raise ModelError(f"{where}.locked: lora freezes the tower's own weights already; leave one of the two out")


@dataclass(frozen=True)
class ImageTowerSpec:
    """The image tower and how its output becomes an embedding.

    Attributes:
        library: where the architecture comes from.
        name: model name, local folder or Hub name; None when `kwargs` say it all.
        pretrained: False = from scratch; True = the library's default weights; str = a tag, file or folder.
        image_size: side of the square input in pixels.
        kwargs: further arguments of the architecture (timm: of `create_model`; open_clip: of the vision
            config; transformers: `model_type` and config fields, and `pooling`).
        projection: head onto the shared space; "none" keeps the tower's own projection where it has one.
        dropout: on the tower's output, before the projection.
        locked: weights and batch-norm statistics of the tower stay as they are (the head still learns).
        patch_dropout: share of a vision transformer's patches that training leaves out.
        lora: adapters that learn while weights and batch-norm statistics stay as they are; None for none.
    """

    library: ImageLibrary
    name: str | None = None
    pretrained: bool | str = False
    image_size: int = 64
    kwargs: dict[str, Any] = field(default_factory=dict)
    projection: Projection = "linear"
    dropout: float = 0.0
    locked: bool = False
    patch_dropout: float = 0.0
    lora: LoraSpec | None = None

    def __post_init__(self) -> None:
        _make_lora(self, "model.image")
        _check_kinds("model.image", self)
        _check_choice("model.image.library", self.library, get_args(ImageLibrary))
        _check_choice("model.image.projection", self.projection, get_args(Projection))
        if self.image_size < 1:
            raise ModelError(f"model.image.image_size is {self.image_size}; it must be positive")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"model.image.dropout is {self.dropout}; it must be in [0, 1)")
        if not 0 <= self.patch_dropout < 1:
            raise ModelError(f"model.image.patch_dropout is {self.patch_dropout}; it must be in [0, 1)")


@dataclass(frozen=True)
class TextTowerSpec:
    """The text tower and how its output becomes an embedding.

    Attributes:
        library, name, pretrained, projection, dropout, locked, lora: as in `ImageTowerSpec`.
        context_length: tokens of the longest caption that the tower reads.
        kwargs: open_clip: fields of the text config (`pool_type` also "mean");
            transformers: `model_type` and config fields, and `pooling` ("mean", "cls", "eos", "pooler");
            bag_of_words: `width` and `token_dropout`.
    """

    library: TextLibrary
    name: str | None = None
    pretrained: bool | str = False
    context_length: int = 32
    kwargs: dict[str, Any] = field(default_factory=dict)
    projection: Projection = "linear"
    dropout: float = 0.0
    locked: bool = False
    lora: LoraSpec | None = None

    def __post_init__(self) -> None:
        _make_lora(self, "model.text")
        _check_kinds("model.text", self)
        _check_choice("model.text.library", self.library, get_args(TextLibrary))
        _check_choice("model.text.projection", self.projection, get_args(Projection))
        if self.context_length < 3:
            raise ModelError(f"model.text.context_length is {self.context_length}; it must be at least 3")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"model.text.dropout is {self.dropout}; it must be in [0, 1)")


@dataclass(frozen=True)
class ModelSpec:
    """A whole dual encoder.

    Attributes:
        embed_dim: size of the shared space.
        image, text: the towers.
        logit_scale: initial factor of the cosines (the parameter stores its logarithm).
        logit_scale_learnable: False keeps it fixed.
        logit_scale_max: the factor never passes this.
        logit_bias: initial offset of the logits (as in SigLIP), learnt; None = no offset.
    """

    embed_dim: int
    image: ImageTowerSpec
    text: TextTowerSpec
    logit_scale: float = INITIAL_LOGIT_SCALE
    logit_scale_learnable: bool = True
    logit_scale_max: float = 100.0
    logit_bias: float | None = None

    def __post_init__(self) -> None:
        _check_kinds("model", self)
        if self.embed_dim < 1:
            raise ModelError(f"model.embed_dim is {self.embed_dim}; it must be positive")
        if not 1 <= self.logit_scale <= self.logit_scale_max:
            raise ModelError(
                f"model.logit_scale is {self.logit_scale}; it must lie between 1 and "
                f"model.logit_scale_max ({self.logit_scale_max})"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values for JSON."""
        values = asdict(self)
        for tower in (values["image"], values["text"]):
            if tower["lora"] is None:
                del tower["lora"]  # saved models have none, and earlier versions do not know the key
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ModelError: a key is unknown or missing.
        """
        given = _known_keys(cls, values, "model")
        try:
            given["image"] = ImageTowerSpec(**_known_keys(ImageTowerSpec, given["image"], "model.image"))
            given["text"] = TextTowerSpec(**_known_keys(TextTowerSpec, given["text"], "model.text"))
            return cls(**given)
        except (KeyError, TypeError) as error:
            raise ModelError(f"incomplete model description: {error}") from None
