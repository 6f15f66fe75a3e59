"""The mean of word embeddings, against a loop, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmcontrast.errors import ModelError
from mmcontrast.models.spec import TextTowerSpec
from mmcontrast.models.towers_bag_of_words import BagOfWordsTower, build_text_tower

VOCABULARY = SimpleNamespace(vocab_size=30, pad_id=0, eos_id=3, bos_id=2)


def build(**kwargs: Any) -> BagOfWordsTower:
    tower = build_text_tower(TextTowerSpec("bag_of_words", kwargs=kwargs), VOCABULARY).module
    assert isinstance(tower, BagOfWordsTower)
    return tower


def test_it_is_the_normalised_mean_over_real_tokens() -> None:
    tower = build(width=6).eval()
    ids = torch.tensor([[2, 7, 9, 3], [2, 5, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    for row, length in enumerate((4, 3)):
        mean = torch.stack([tower.embedding.weight[i] for i in ids[row, :length].tolist()]).mean(dim=0)
        torch.testing.assert_close(tower(ids, mask)[row], tower.norm(mean))


def test_token_dropout_leaves_out_words_but_never_all() -> None:
    tower = build(width=4, token_dropout=0.5).train()
    ids, mask = torch.tensor([[2, 7, 9]]), torch.ones(1, 3, dtype=torch.long)
    torch.manual_seed(0)
    seen = {tuple(tower(ids, mask)[0].tolist()) for _ in range(60)}
    assert len(seen) == 4  # both words, one of them, the other, none
    alone = build(width=4, token_dropout=0.99).train()
    assert torch.isfinite(alone(ids, mask)).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "bert"}, "has no name"),
        ({"pretrained": True}, "no pretrained weights"),
        ({"kwargs": {"layers": 2}}, "has no 'layers', but width, token_dropout"),
        ({"kwargs": {"width": 0}}, "width must be a positive number"),
        ({"kwargs": {"token_dropout": 1}}, r"token_dropout in \[0, 1\)"),
    ],
)
def test_what_it_refuses(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_text_tower(TextTowerSpec("bag_of_words", **spec), VOCABULARY)
