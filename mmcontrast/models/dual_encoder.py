"""Two towers into one space: the model that is trained, evaluated, saved and shared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontrast.errors import ModelError
from mmcontrast.models.inputs import check_ids, check_images, chunks
from mmcontrast.models.length_buckets import run_on_real_tokens
from mmcontrast.models.spec import ModelSpec
from mmcontrast.models.token_packing import mask_from_ids
from mmcontrast.models.tokenizers import Tokenizer
from mmcontrast.models.towers import ImageTower, TextTower
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import Features


class DualEncoder(nn.Module):
    """An image tower and a text tower, each with a head onto the same unit sphere.

    Built by `build_dual_encoder`, loaded by `from_pretrained`.

    Attributes:
        spec: what it is made of; enough to build the architecture again.
        image_encoder, text_encoder: the towers.
        image_projection, text_projection: the heads.
        logit_scale: (1,) parameter, the logarithm of the factor of the cosines.
        logit_bias: (1,) parameter, or None.
        preprocess: how pictures become the image tower's input.
        tokenizer: how captions become the text tower's input.
        templates: prompts for zero-shot classification ("a photo of a {c}."), or None.
        extra: further plain values that are kept in config.json.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        image_encoder: ImageTower,
        text_encoder: TextTower,
        image_projection: nn.Module,
        text_projection: nn.Module,
        preprocess: ImagePreprocess,
        tokenizer: Tokenizer,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.image_projection = image_projection
        self.text_projection = text_projection
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.templates: list[str] | None = None
        self.extra: dict[str, Any] = {}
        # Shape (1,), not (): sharded training refuses parameters without a dimension.
        self.logit_scale = nn.Parameter(torch.tensor([math.log(spec.logit_scale)]), spec.logit_scale_learnable)
        self.logit_bias = None if spec.logit_bias is None else nn.Parameter(torch.tensor([float(spec.logit_bias)]))
        for tower in self._locked_towers():
            tower.requires_grad_(False)
        self.train()

    def _locked_towers(self) -> Iterator[nn.Module]:
        if self.spec.image.locked:
            yield self.image_encoder
        if self.spec.text.locked:
            yield self.text_encoder

    def train(self, mode: bool = True) -> Self:
        """As in torch, but locked towers, and batch norm in those with adapters, stay in evaluation mode.

        Their batch-norm statistics do not move.
        """
        super().train(mode)
        for tower in self._locked_towers():
            tower.eval()
        for tower, spec in ((self.image_encoder, self.spec.image), (self.text_encoder, self.spec.text)):
            for module in tower.modules() if spec.lora is not None else ():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @property
    def embed_dim(self) -> int:
        """Size of the shared space."""
        return self.spec.embed_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Features:
        """Features of b pairs, with gradients.

        Args:
            image: (b, 3, h, w) uint8 pixels, or floats that are already normalised.
            input_ids: (b, t) int64.
            attention_mask: (b, t), 1 on real tokens; padding stands on the right.
        """
        return Features(
            image=self._image_features(image),
            text=self._text_features(input_ids, attention_mask),
            logit_scale=self._scale(),
            logit_bias=None if self.logit_bias is None else self.logit_bias.squeeze(),
        )

    def _scale(self) -> Tensor:
        # The gradient passes the clamp: torch's own is zero outside and, by rounding, already on the bound, where
        # the scale would stay for ever.
        log = self.logit_scale
        clamped = log.clamp(0, math.log(self.spec.logit_scale_max))
        return (log + (clamped - log).detach()).exp().squeeze()

    def clamp_logit_scale(self) -> None:
        """Bring the parameter back into [0, ln max]; call it after each step of the optimiser."""
        with torch.no_grad():
            self.logit_scale.clamp_(0, math.log(self.spec.logit_scale_max))

    def encode_image(self, images: Sequence[Image.Image] | Image.Image | Tensor, *, batch_size: int = 64) -> Tensor:
        """L2-normalised image features (n, embed_dim).

        Pictures are encoded in evaluation mode, without gradients, `batch_size` at a time, and the model's mode is
        left as it was. A tensor (n, 3, h, w), uint8 or normalised floats, is encoded as the model stands, whole,
        with gradients.

        Raises:
            ModelError: there is nothing to encode, or it is of the wrong type or size.
        """
        if isinstance(images, Tensor):
            return self._image_features(images.to(self.device))
        images = [images] if isinstance(images, Image.Image) else list(images)
        for position, image in enumerate(images):
            if not isinstance(image, Image.Image):
                raise ModelError(f"picture {position} is a {type(image).__name__}, not a PIL image")
        with self._evaluating():
            return torch.cat(
                [
                    self._image_features(self.preprocess.batch(chunk).to(self.device))
                    for chunk in chunks(images, batch_size, "picture")
                ]
            )

    def encode_text(
        self,
        texts: Sequence[str] | str | Tensor,
        attention_mask: Tensor | None = None,
        *,
        batch_size: int = 256,
    ) -> Tensor:
        """L2-normalised text features (n, embed_dim).

        Strings are treated as pictures are in `encode_image`; ids (n, t) are encoded as the model stands, with
        gradients. Without a mask everything up to the last id that is no padding counts as real.

        Raises:
            ModelError: there is nothing to encode, or ids are of the wrong type, too long, or not in the vocabulary.
        """
        if isinstance(texts, Tensor):
            check_ids(texts, self.text_encoder.context_length, self.text_encoder.vocab_size)
            if attention_mask is None:
                attention_mask = mask_from_ids(texts, self.tokenizer.pad_id, self.tokenizer.eos_id)
            return self._text_features(texts.to(self.device), attention_mask.to(self.device))
        captions = [texts] if isinstance(texts, str) else list(texts)
        features = []
        with self._evaluating():
            for chunk in chunks(captions, batch_size, "caption"):
                tokens = self.tokenizer(chunk)
                features.append(
                    self._text_features(tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device))
                )
        return torch.cat(features)

    def set_gradient_checkpointing(self, enable: bool = True) -> list[str]:
        """Trade computation for memory; returns which of the towers ("image", "text") could be switched.

        Locked towers keep no activations anyway and are left out.
        """
        towers: dict[str, ImageTower | TextTower] = {"image": self.image_encoder, "text": self.text_encoder}
        free = {name: tower for name, tower in towers.items() if tower not in list(self._locked_towers())}
        return [name for name, tower in free.items() if tower.set_gradient_checkpointing(enable)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors, config.json and tokenizer/; all of it, or nothing. Adapters are merged.

        Raises:
            ModelError: `folder` holds something else than a model of ours.
        """
        from mmcontrast.models.saving import save_model  # saving builds models, which needs this class

        save_model(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, device: torch.device | str | None = None
    ) -> DualEncoder:
        """Load a model of ours or of another library, from a folder or the Hub; in evaluation mode.

        Args:
            name: a folder written by `save_pretrained` or by an export; a folder of open_clip, of transformers
                (CLIP, SigLIP, VisionTextDualEncoder) or of sentence-transformers (CLIP); such a repository of the Hub
                ("ORG/NAME"); or, as in open_clip, "local-dir:FOLDER", "hf-hub:ORG/NAME", and "open_clip:MODEL/TAG".
            revision: of the repository.
            device: where the model is moved to.

        Raises:
            ModelError: nothing there, no safetensors weights, weights that do not fit, or a checkpoint of another
                library that asks for something which would change its numbers here.
        """
        from mmcontrast.models.saving import load_model  # as above

        model = load_model(name, revision)
        return model if device is None else model.to(device)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish this model as `mmcontrast.push_to_hub` does, with its options and errors; returns the commit."""
        import mmcontrast  # the public face: models know nothing of exports

        return mmcontrast.push_to_hub(self, repo_id, **options).commit or ""

    def _image_features(self, image: Tensor) -> Tensor:
        check_images(image, self.preprocess.image_size)
        if image.dtype == torch.uint8:
            image = self.preprocess.normalise(image)
        embeddings = self.image_projection(self.image_encoder(image.to(_dtype(self.image_encoder, image))))
        return functional.normalize(embeddings.float(), dim=-1)

    def _text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        check_ids(input_ids, self.text_encoder.context_length, self.text_encoder.vocab_size)
        if attention_mask.shape != input_ids.shape:
            raise ModelError(
                f"attention_mask is {tuple(attention_mask.shape)}, but input_ids are {tuple(input_ids.shape)}"
            )
        embeddings = self.text_projection(run_on_real_tokens(self.text_encoder, input_ids, attention_mask))
        return functional.normalize(embeddings.float(), dim=-1)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients; each module gets its own mode back."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True


def _dtype(module: nn.Module, like: Tensor) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), like.dtype)
