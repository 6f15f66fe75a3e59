"""Image and text towers of open_clip, by the name of one of its configs or by the fields of one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import open_clip
import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

from mmcontrast.errors import ModelError
from mmcontrast.models.open_clip_config import Part, Recipe, read_preprocess, read_recipe, text_pooling
from mmcontrast.models.patch_dropout import set_patch_dropout
from mmcontrast.models.spec import ImageTowerSpec, TextTowerSpec
from mmcontrast.models.towers import (
    BuiltImageTower,
    BuiltTextTower,
    ImageTower,
    Pooling,
    TextTower,
    Vocabulary,
    fill_to_length,
    one_line,
    pool_tokens,
    probe_image,
    probe_text,
)

# open_clip only builds both towers at once: the other one is made as small as it can be and thrown away.
_SMALLEST: dict[Part, dict[str, Any]] = {
    "vision_cfg": {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8, "mlp_ratio": 1},
    "text_cfg": {"layers": 1, "width": 8, "heads": 1, "vocab_size": 8, "context_length": 4, "mlp_ratio": 1},
}


def build_image_tower(spec: ImageTowerSpec, embed_dim: int) -> BuiltImageTower:
    """The vision tower that `spec` names; without a projection of ours it keeps its own.

    Raises:
        ModelError: unknown name, tag or field, contradicting activations, or weights that do not fit.
    """
    recipe = read_recipe(spec, "vision_cfg", embed_dim)
    if not spec.pretrained or not recipe.config.get("timm_model_name"):
        recipe.config["image_size"] = spec.image_size
    clip = _create(spec, recipe, "vision_cfg")
    visual = clip.visual
    if hasattr(getattr(visual, "trunk", None), "set_input_size"):
        visual.set_input_size(spec.image_size)
    recipe.config["image_size"] = spec.image_size
    if spec.projection != "none":
        _drop_projection(visual)
    tower = OpenClipImageTower(visual)
    resolved = replace(spec, name=None, pretrained=False, kwargs=recipe.kwargs())
    return BuiltImageTower(tower, probe_image(tower, spec.image_size), resolved, read_preprocess(visual, spec))


def build_text_tower(spec: TextTowerSpec, embed_dim: int, vocabulary: Vocabulary) -> BuiltTextTower:
    """The text tower that `spec` names; from scratch its vocabulary and length are those asked for.

    Raises:
        ModelError: as for the image tower; or the config is that of a transformers model.
    """
    recipe = read_recipe(spec, "text_cfg", embed_dim)
    config = recipe.config
    if hf_name := config.get("hf_model_name"):
        raise ModelError(
            f"the text tower of {spec.name} is a transformers model: use model.text.library: transformers, "
            f"name: {hf_name}"
        )
    if not spec.pretrained:
        _fit_to_vocabulary(config, spec, vocabulary)
    pooling = text_pooling(config, recipe.attend_padding)
    text = _create(spec, recipe, "text_cfg").text
    if spec.projection != "none":
        text.text_projection = None
    tower = OpenClipTextTower(text, pooling, recipe.attend_padding, spec.context_length, vocabulary.pad_id)
    kwargs = {**recipe.kwargs(), "attend_padding": recipe.attend_padding}
    resolved = replace(spec, name=None, pretrained=False, kwargs=kwargs)
    return BuiltTextTower(tower, probe_text(tower), resolved)


def _fit_to_vocabulary(config: dict[str, Any], spec: TextTowerSpec, vocabulary: Vocabulary) -> None:
    """Sizes and special ids of a tower from scratch, unless kwargs set them."""
    values: dict[str, Any] = {
        "vocab_size": vocabulary.vocab_size,
        "context_length": spec.context_length,
        "pad_id": vocabulary.pad_id,
        "eos_id": vocabulary.eos_id,
    }
    if config.get("pool_type", "argmax") == "argmax" and vocabulary.eos_id != vocabulary.vocab_size - 1:
        values["pool_type"] = (
            "eos"  # ours pools by the mask; but whoever reads this config would search the greatest id
        )
    config.update({key: value for key, value in values.items() if key not in spec.kwargs})


class OpenClipImageTower(ImageTower):
    """ViT, ModifiedResNet or timm trunk as open_clip builds them."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual: Any = visual

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) normalised -> (b, width)."""
        return _first(self.visual(pixels))

    def set_patch_dropout(self, share: float) -> bool:
        """Only vision transformers can."""
        return set_patch_dropout(getattr(self.visual, "trunk", self.visual), share)

    def set_gradient_checkpointing(self, enable: bool) -> bool:
        """Only transformers and most timm trunks can."""
        try:
            getattr(self.visual, "trunk", self.visual).set_grad_checkpointing(enable)
        except (AttributeError, AssertionError):
            return False
        return "ModifiedResNet" not in type(self.visual).__name__  # it has the method, which does nothing


class OpenClipTextTower(TextTower):
    """open_clip's text transformer, run on batches of any length, pooled by the attention mask."""

    def __init__(
        self, text: Any, pooling: Pooling | Literal["last"], attend_padding: bool, limit: int, pad_id: int
    ) -> None:
        super().__init__()
        positions = int(text.context_length)
        if limit > positions:
            raise ModelError(f"model.text.context_length is {limit}, but the text tower has {positions} positions")
        self.text: Any = text
        self.pooling = pooling
        self.attend_padding = attend_padding
        self.shorter_is_cheaper = not attend_padding and text.cls_emb is None
        self.pad_id = pad_id
        self.positions = positions
        self.context_length = limit
        self.vocab_size = int(text.vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(b, t), (b, t) -> (b, width)."""
        text = self.text
        if self.attend_padding:
            input_ids = fill_to_length(input_ids, attention_mask, self.positions, self.pad_id)
        if text.cls_emb is not None:  # CoCa: its class token sits behind the padding, with a mask of its own
            return _first(text(input_ids))
        length = input_ids.shape[1]
        hidden = text.token_embedding(input_ids) + text.positional_embedding[:length]
        hidden = text.ln_final(text.transformer(hidden, attn_mask=self._mask(attention_mask, length)))
        pooled: Tensor = hidden[:, -1] if self.pooling == "last" else pool_tokens(hidden, attention_mask, self.pooling)
        head = text.text_projection
        if head is None:
            return pooled
        projected: Tensor = head(pooled) if isinstance(head, nn.Linear) else pooled @ head
        return projected

    def _mask(self, attention_mask: Tensor, length: int) -> Tensor | None:
        # Under a causal mask real tokens never see the padding behind them; without one it must be hidden.
        text = self.text
        if text.attn_mask is not None:
            causal: Tensor = text.attn_mask[:length, :length]
            return causal
        if self.attend_padding:
            return None
        hidden = torch.zeros(attention_mask.shape, device=attention_mask.device)
        hidden.masked_fill_(attention_mask == 0, float("-inf"))
        return hidden[:, None, :].expand(-1, length, -1).repeat_interleave(text.heads, dim=0)  # (b * heads, t, t)

    def set_gradient_checkpointing(self, enable: bool) -> bool:
        """Always possible."""
        self.text.transformer.grad_checkpointing = enable
        return True


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """CoCa's towers also give their tokens."""
    return output[0] if isinstance(output, tuple) else output


def _create(spec: ImageTowerSpec | TextTowerSpec, recipe: Recipe, part: Part) -> Any:
    config = dict(recipe.config)
    if part == "text_cfg" and config.get("pool_type") == "mean":
        config["pool_type"] = "argmax"  # the pooling is ours
    try:
        if spec.pretrained:
            return _create_pretrained(spec, recipe, part, config)
        configs = {**_SMALLEST, part: config}
        return CustomTextCLIP(recipe.embed_dim, **configs, quick_gelu=recipe.quick_gelu)
    except ModelError:
        raise
    except Exception as error:  # asserts, shape errors, failed downloads: open_clip raises of all kinds
        where = "model.image" if part == "vision_cfg" else "model.text"
        raise ModelError(f"{where}: open_clip cannot build {spec.name or 'this tower'}: {one_line(error)}") from error


def _create_pretrained(spec: ImageTowerSpec | TextTowerSpec, recipe: Recipe, part: Part, config: dict[str, Any]) -> Any:
    assert spec.name is not None  # read_recipe has refused it
    in_folder = ":" in spec.name
    if in_folder and spec.pretrained is not True:
        raise ModelError(f"{spec.name} holds its own weights: set pretrained: true, not {spec.pretrained!r}")
    if not in_folder and not isinstance(spec.pretrained, str):
        tags = open_clip.list_pretrained_tags_by_model(spec.name)
        raise ModelError(f"pretrained for {spec.name} must be a file or one of the tags {', '.join(tags) or '(none)'}")
    with _quiet_root_logger():
        return open_clip.create_model(
            spec.name,
            pretrained=None if in_folder else spec.pretrained,
            require_pretrained=True,
            force_custom_text=True,
            force_quick_gelu=recipe.quick_gelu,
            pretrained_text=False,
            **{part: config},
        )


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """open_clip tells its steps on the root logger, and so gives it a handler where the program has set none."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silent)
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)


def _drop_projection(visual: Any) -> None:
    """Leave the trunk's features: the projection becomes ours. (A ModifiedResNet's pooling cannot be split.)"""
    if getattr(visual, "proj", None) is not None:
        visual.proj = None
    for name in ("proj", "mlp"):
        if hasattr(getattr(visual, "head", None), name):
            setattr(visual.head, name, nn.Identity())
