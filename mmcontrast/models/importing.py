"""Models of open_clip, transformers and sentence-transformers as dual encoders of ours, with the same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmcontrast.errors import ModelError
from mmcontrast.models.build import build_dual_encoder
from mmcontrast.models.dual_encoder import DualEncoder
from mmcontrast.models.finding import Found
from mmcontrast.models.spec import ImageTowerSpec, ModelSpec, TextTowerSpec
from mmcontrast.models.tokenizers import Tokenizer
from mmcontrast.preprocess import ImagePreprocess

LARGEST_SCALE = 100.0
"""That training may reach, unless the checkpoint is beyond it (SigLIP's are)."""


@dataclass(frozen=True)
class Parts:
    """What a checkpoint of another library comes down to.

    Attributes:
        embed_dim: size of the shared space.
        image, text: the towers, without weights.
        tokenizer, preprocess: the checkpoint's own.
        weights: by the names of `DualEncoder`, logit_scale and logit_bias among them.
    """

    embed_dim: int
    image: ImageTowerSpec
    text: TextTowerSpec
    tokenizer: Tokenizer
    preprocess: ImagePreprocess
    weights: Mapping[str, Tensor]


def import_model(found: Found) -> DualEncoder:
    """Build the towers that a checkpoint describes, and fill in its weights; in evaluation mode.

    Raises:
        ModelError: weights are missing, left over, pickled or of another shape; or the checkpoint asks for something
            that would change its numbers here.
    """
    try:
        model = assemble(_read(found))
    except ModelError as error:
        known = found.name in str(error) or (found.folder is not None and str(found.folder) in str(error))
        raise error if known else ModelError(f"{found.name}: {error}") from None
    origin = {"library": found.kind, "name": found.name, "pretrained": True}
    # A text tower of transformers in a checkpoint of open_clip has its config from elsewhere on the Hub.
    config = model.extra["built_from"]["text"]["name"]
    text = origin | {"config_of": config} if config else dict(origin)
    model.extra["built_from"] = {"image": origin, "text": text}
    return model.eval()


def _read(found: Found) -> Parts:
    # Imported where needed: a model of one library should not wait for the others.
    if found.kind == "open_clip":
        from mmcontrast.models.importing_open_clip import read_folder, read_tag

        return read_tag(found.name) if found.folder is None else read_folder(found.folder)
    assert found.folder is not None
    if found.kind == "sentence_transformers":
        from mmcontrast.models.importing_sentence_transformers import read_modules

        return read_modules(found.folder)
    from mmcontrast.models.importing_transformers import read_model

    return read_model(found.folder)


def assemble(parts: Parts) -> DualEncoder:
    """A dual encoder with these weights.

    Raises:
        ModelError: they are not exactly those that the towers need.
    """
    weights = {name: value.reshape(1) if name in _SCALARS else value for name, value in parts.weights.items()}
    if "logit_scale" not in weights:
        raise ModelError("the checkpoint lacks logit_scale")
    scale = math.exp(float(weights["logit_scale"]))
    spec = ModelSpec(
        embed_dim=parts.embed_dim,
        image=parts.image,
        text=parts.text,
        logit_scale=scale,
        logit_scale_max=max(LARGEST_SCALE, scale),
        logit_bias=float(weights["logit_bias"]) if "logit_bias" in weights else None,
    )
    model = build_dual_encoder(spec, parts.tokenizer, seed=0)
    fill(model, weights)
    model.preprocess = parts.preprocess
    return model


_SCALARS = ("logit_scale", "logit_bias")


def fill(model: DualEncoder, weights: Mapping[str, Tensor]) -> None:
    """Load the weights; names and shapes must agree, but for parameters that the features do not depend on.

    Raises:
        ModelError: they do not.
    """
    own = model.state_dict()
    # Poolers and the like that a library builds although nothing reads them: the probe of the towers froze them.
    idle = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if missing := sorted(set(own) - set(weights) - idle):
        raise ModelError(f"the checkpoint lacks {_few(missing)}")
    if left_over := sorted(set(weights) - set(own)):
        raise ModelError(f"the checkpoint has weights that its config does not account for: {_few(left_over)}")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            shapes = f"{tuple(value.shape)}, by its config {tuple(own[name].shape)}"
            raise ModelError(f"the checkpoint's {name} is {shapes}")
    model.load_state_dict(weights, strict=False)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def square(size: object, where: str | Path) -> int:
    """The side of a square input, given as a number or twice.

    Raises:
        ModelError: it is not square.
    """
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int):
        raise ModelError(f"{where}: pictures of {size} are not supported; only square ones are")
    return int(sides[0])
