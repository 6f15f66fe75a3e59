from __future__ import annotations

import pytest
from model_fakes import CONTEXT, CORPUS
from PIL import Image

from mmcontrast.models import SentencePieceTokenizer, train_sentencepiece


@pytest.fixture(scope="session")
def vocabulary() -> bytes:
    return train_sentencepiece(CORPUS, 420)


@pytest.fixture
def tokenizer(vocabulary: bytes) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(vocabulary, CONTEXT)


@pytest.fixture
def pictures() -> list[Image.Image]:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 20)]
    return [
        Image.linear_gradient("L").convert("RGB").resize((40, 48)).point(lambda v, c=c: min(255, v + c[0]))
        if i % 2
        else Image.new("RGB", (50, 34), c)
        for i, c in enumerate(colours)
    ]
