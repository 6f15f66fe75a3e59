"""Any text in any script, with control characters, emoji or nothing in it: ids of the vocabulary, marks, and a mask."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fakes import CONTEXT
from tokenizer_fakes import bert_folder, gpt_folder

from mmcontrast.models import ClipTokenizer, SentencePieceTokenizer, Tokenizer, TransformersTokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ODD = [
    "",
    " ",
    "\0",
    "\x1b[2J",
    "\u202eabc",
    "👩‍👩‍👧",
    "e" + "\u0301" * 50,
    "﷽" * 20,
    "a" * 3000,
    "<s></s><|endoftext|>[CLS]",
]
ODD += ["كلب أحمر", "שלום", "\ufeffa", "\u2028", "▁▁▁", "Ġ", "</w>", "&lt;b&gt;&amp;amp;", "\U0010ffff", "ｆｕｌｌ"]


@pytest.fixture(scope="module", params=["clip", "sentencepiece", "bert", "gpt"])
def any_tokenizer(
    request: pytest.FixtureRequest, vocabulary: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    if request.param == "clip":
        return ClipTokenizer(CONTEXT)
    if request.param == "sentencepiece":
        return SentencePieceTokenizer(vocabulary, CONTEXT)
    make = bert_folder if request.param == "bert" else gpt_folder
    return TransformersTokenizer(make(folder), CONTEXT)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS | st.sampled_from(ODD), min_size=1, max_size=5))
def test_shape_range_marks_and_mask(any_tokenizer: Tokenizer, texts: list[str]) -> None:
    tokens = any_tokenizer(texts)
    ids, mask = tokens.input_ids, tokens.attention_mask
    assert ids.shape == mask.shape
    assert len(ids) == len(texts)
    assert 1 <= ids.shape[1] <= CONTEXT
    assert int(ids.min()) >= 0
    assert int(ids.max()) < any_tokenizer.vocab_size
    assert 0 <= tokens.truncated <= len(texts)
    for row, length in zip(ids.tolist(), mask.sum(dim=1).tolist(), strict=True):
        assert row[length - 1] == any_tokenizer.eos_id
        assert set(row[length:]) <= {any_tokenizer.pad_id}
    assert (mask.diff(dim=1) <= 0).all()  # ones, then zeros


@settings(derandomize=True, max_examples=30, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=4))
def test_a_caption_is_read_alike_alone_and_among_others(any_tokenizer: Tokenizer, texts: list[str]) -> None:
    together = any_tokenizer(texts)
    for text, ids, mask in zip(texts, together.input_ids, together.attention_mask, strict=True):
        alone = any_tokenizer([text])
        assert alone.input_ids[0, : int(alone.attention_mask.sum())].tolist() == ids[: int(mask.sum())].tolist()


def test_a_megabyte_of_text(any_tokenizer: Tokenizer) -> None:
    tokens = any_tokenizer(["word " * 200_000, "a"])
    assert tokens.input_ids.shape == (2, CONTEXT)
    assert tokens.truncated == 1


def test_a_copy_reads_alike(any_tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(any_tokenizer))
    assert copy(ODD).input_ids.tolist() == any_tokenizer(ODD).input_ids.tolist()
