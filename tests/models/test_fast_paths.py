"""What makes towers fast is really in use, and changes no number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_fakes import CAPTIONS, IMAGE_TOWERS, SIZE, TEXT_TOWERS, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from mmcontrast.models import SentencePieceTokenizer

FUSED = "_scaled_dot_product_flash_attention"
WITHOUT_ATTENTION = {"timm_resnet", "hf_resnet", "bag_of_words"}


class Operators(TorchDispatchMode):
    """Names of all operators that were run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(function))
        return function(*args, **(kwargs or {}))


def fused(operators: Operators) -> tuple[bool, bool]:
    """Whether fused attention was run forward, and backward."""
    names = [name for name in operators.seen if FUSED in name]
    return any("backward" not in name for name in names), any("backward" in name for name in names)


@pytest.mark.parametrize("image", [name for name in IMAGE_TOWERS if name not in WITHOUT_ATTENTION])
def test_image_towers_attend_by_the_fused_kernel(image: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, image, "bag_of_words").eval()  # on a CPU the kernel knows no dropout
    with Operators() as operators:
        model.encode_image(torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)).sum().backward()
    assert fused(operators) == (True, True)


# T5's positions are a learnt bias of the attention, whose gradient the kernel does not give.
@pytest.mark.parametrize("text", [name for name in TEXT_TOWERS if name not in {*WITHOUT_ATTENTION, "hf_t5"}])
def test_text_towers_attend_by_the_fused_kernel(text: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, "timm_resnet", text).eval()
    tokens = tokenizer(CAPTIONS)
    with Operators() as operators:
        model.encode_text(tokens.input_ids, tokens.attention_mask).sum().backward()
    assert fused(operators) == (True, True)


@pytest.mark.parametrize("image", IMAGE_TOWERS)
def test_channels_last_changes_no_feature(image: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, image, "bag_of_words").eval()
    kernels = [p for p in model.image_encoder.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    pixels = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalised = model.preprocess.normalise(pixels)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        last = model.encode_image(normalised)
        for parameter in kernels:
            parameter.data = parameter.data.contiguous()
        first = model.encode_image(normalised.contiguous())
    torch.testing.assert_close(last, first, atol=1e-5, rtol=0)
