"""Captions tokenized beforehand are those that the tokenizer makes in each batch."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from making_data import table, tokenize, write_parquet
from torch import Tensor

from mmcontrast.data import GlobalBatchSampler, PairDataset, PairSource, open_source, train_loader, train_transform
from mmcontrast.data import caption_table as module
from mmcontrast.data.caption_table import tokenize_source
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import PairBatch, Tokens

ROWS = 40


def captions(row: int) -> list[str]:
    """One to five captions, some cut by the tokenizer at 24 letters, some of just so many, some beyond ASCII."""
    kinds = ["a dog", f"row {row} with far more letters than fit", "x" * 24, "犬が走る", "é" * (row % 30 + 1)]
    return kinds[: row % 5 + 1]


@pytest.fixture
def source(tmp_path: Path) -> PairSource:
    data = table(ROWS).set_column(1, "captions", pa.array([captions(row) for row in range(ROWS)]))
    return open_source(write_parquet(tmp_path / "a.parquet", data))


def test_each_caption_alone_and_together(source: PairSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    done: list[int] = []
    made = tokenize_source(source, tokenize, vocab_size=2**20, pad_id=0, advance=done.append)
    assert len(made) == sum(done) == sum(len(captions(row)) for row in range(ROWS))
    assert made.ids.dtype == np.int32
    rows, numbers, texts = [], [], []
    for row in range(ROWS):
        for number, text in enumerate(captions(row)):
            assert_same(made.tokens([row], [number]), tokenize([text]))
            rows, numbers, texts = [*rows, row], [*numbers, number], [*texts, text]
    order = np.random.default_rng(0).permutation(len(rows))
    assert_same(made.tokens([rows[i] for i in order], [numbers[i] for i in order]), tokenize([texts[i] for i in order]))
    assert made.cut.sum() > 20


def assert_same(ours: Tokens, theirs: Tokens) -> None:
    for field in ("input_ids", "attention_mask"):
        left, right = getattr(ours, field), getattr(theirs, field)
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    assert ours.truncated == theirs.truncated


def test_two_bytes_a_token_where_they_are_enough(source: PairSource) -> None:
    made = tokenize_source(source, tokenize, vocab_size=65_536, pad_id=0)
    assert made.ids.dtype == np.uint16
    assert made.ids.nbytes == 2 * made.offsets[-1]
    rows = range(ROWS)
    assert_same(made.tokens(rows, [0] * ROWS), tokenize([captions(row)[0] for row in rows]))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("sampling", ["random", "all"])
def test_batches_are_the_same_bit_for_bit(source: PairSource, workers: int, sampling: Any) -> None:
    def batches(table: Any, workers: int) -> list[PairBatch]:
        dataset = PairDataset(
            source,
            train_transform(ImagePreprocess(8), "strong"),
            seed=3,
            caption_sampling=sampling,
            reserve_captions=True,
        )
        sampler = GlobalBatchSampler(len(dataset), 6, seed=1)
        loader = train_loader(dataset, sampler, tokenize, workers, sibling_share=0.5, table=table)
        found: list[PairBatch] = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            found += loader  # type: ignore[arg-type]
        return found

    made = tokenize_source(source, tokenize, vocab_size=2**20, pad_id=0)
    plain = batches(None, 0)
    assert any((batch.sibling_rows >= 0).any() for batch in plain if batch.sibling_rows is not None)
    assert any(batch.truncated for batch in plain)
    ours = batches(pickle.loads(pickle.dumps(made)), workers)
    assert len(ours) == len(plain)
    for left, right in zip(ours, plain, strict=True):
        for field in fields(PairBatch):
            x, y = getattr(left, field.name), getattr(right, field.name)
            assert torch.equal(x, y) if isinstance(y, Tensor) else x == y, field.name


def test_the_tokenizer_is_not_asked_again(source: PairSource) -> None:
    made = tokenize_source(source, tokenize, vocab_size=2**20, pad_id=0)
    dataset = PairDataset(source, train_transform(ImagePreprocess(8)))
    sampler = GlobalBatchSampler(len(dataset), 6, seed=1)

    def never(captions: list[str]) -> Tokens:
        pytest.fail("asked")

    loader = train_loader(dataset, sampler, never, table=made)
    assert len(list(loader)) == ROWS // 6
