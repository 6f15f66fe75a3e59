"""Real tokens only: the same features and gradients as with full padding, for every tower."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_fakes import CAPTIONS, CONTEXT, TEXT_TOWERS, tiny_model
from torch import Tensor

from mmcontrast.models import SentencePieceTokenizer, length_buckets
from mmcontrast.models.length_buckets import caption_lengths, run_on_real_tokens, split_by_length

# Long and short in turns, so that groups by length mix up the order.
MANY = [text for pair in zip(CAPTIONS * 8, ["a dog", "car", "a red tree"] * 16, strict=True) for text in pair]


def test_lengths_are_those_up_to_the_last_real_token() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    assert caption_lengths(mask).tolist() == [3, 1, 3, 1]


def test_groups_hold_every_row_once_from_short_to_long() -> None:
    lengths = torch.randint(1, 78, (301,), generator=torch.Generator().manual_seed(0))
    groups = split_by_length(lengths)
    assert 1 < len(groups) <= length_buckets.MOST_BUCKETS
    assert sorted(torch.cat(groups).tolist()) == list(range(301))
    longest = [int(lengths[rows].max()) for rows in groups]
    assert longest == sorted(longest) == [int(lengths[rows[-1]]) for rows in groups]


def test_the_split_costs_least_by_a_count_of_the_tokens() -> None:
    lengths = torch.tensor([3] * 70 + [40] * 30 + [77] * 20)
    order = lengths.sort().values

    def cost(groups: int) -> int:
        parts = order.tensor_split(groups)
        return sum(len(part) * int(part.max()) for part in parts) + groups * length_buckets.BUCKET_TOKENS

    chosen = split_by_length(lengths)
    assert cost(len(chosen)) == min(cost(groups) for groups in range(1, 9))


@pytest.mark.parametrize("lengths", [[14] * 256, [3, 20, 9, 5], [7]])
def test_nothing_is_split_where_it_would_not_pay(lengths: list[int]) -> None:
    (rows,) = split_by_length(torch.tensor(lengths))
    assert len(rows) == len(lengths)


@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_features_and_gradients_are_those_of_full_padding(
    text: str, tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(length_buckets, "BUCKET_TOKENS", 8)
    tower = tiny_model(tokenizer, "open_clip_vit", text).double().eval().text_encoder
    tokens = tokenizer(MANY)
    spare = CONTEXT - tokens.input_ids.shape[1]
    ids = torch.nn.functional.pad(tokens.input_ids, (0, spare), value=tokenizer.pad_id)
    mask = torch.nn.functional.pad(tokens.attention_mask, (0, spare))
    shapes, found = [], []
    tower.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    weight = torch.randn(len(MANY), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for run in (lambda: tower(ids, mask), lambda: run_on_real_tokens(tower, ids, mask)):
        tower.zero_grad()
        features = run()
        (features * weight).sum().backward()
        found.append((features, {n: p.grad.clone() for n, p in tower.named_parameters() if p.grad is not None}))
    (padded, gradients), (bucketed, others) = found
    torch.testing.assert_close(bucketed, padded, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-8, rtol=1e-6)
    whole, *groups = shapes
    assert whole == (len(MANY), CONTEXT)
    if tower.shorter_is_cheaper:
        assert len(groups) > 1
        assert sum(rows for rows, _ in groups) == len(MANY)
        assert groups[0][1] < groups[-1][1] <= CONTEXT
    else:
        assert groups == [whole]


def test_padding_of_a_single_group_is_cut(tokenizer: SentencePieceTokenizer) -> None:
    tower = tiny_model(tokenizer, "open_clip_vit", "open_clip_causal").text_encoder
    ids, mask = torch.ones(4, CONTEXT, dtype=torch.long), torch.zeros(4, CONTEXT, dtype=torch.long)
    mask[:, :5] = 1
    shapes: list[Any] = []
    tower.register_forward_pre_hook(lambda _, given: shapes.append([tuple(x.shape) for x in given]))
    output: Tensor = run_on_real_tokens(tower, ids, mask)
    assert len(output) == 4
    assert shapes == [[(4, 5), (4, 5)]]


def test_the_model_goes_this_way_and_repeats_itself_bit_for_bit(tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, "open_clip_vit", "hf_bert_mean").train()
    tokens = tokenizer(MANY * 8)
    calls: list[int] = []
    model.text_encoder.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    first, second = (
        (torch.manual_seed(3), model.encode_text(tokens.input_ids, tokens.attention_mask))[1] for _ in range(2)
    )
    assert len(calls) > 2
    assert torch.equal(first, second)  # with dropout, from the same random state
