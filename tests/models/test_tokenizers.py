from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import pytest
import transformers
from model_fakes import CAPTIONS, CONTEXT
from tokenizer_fakes import bert_folder, broken_folder, gpt_folder

from mmcontrast.errors import ModelError
from mmcontrast.models import (
    ClipTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    TransformersTokenizer,
    load_tokenizer,
    save_tokenizer,
)


@pytest.fixture(params=["clip", "sentencepiece", "transformers"])
def any_tokenizer(request: pytest.FixtureRequest, vocabulary: bytes, tmp_path: Path) -> Tokenizer:
    if request.param == "clip":
        return ClipTokenizer(CONTEXT)
    if request.param == "sentencepiece":
        return SentencePieceTokenizer(vocabulary, CONTEXT)
    return TransformersTokenizer(bert_folder(tmp_path / "bert"), CONTEXT)


def test_all_kinds_agree_on_the_face(any_tokenizer: Tokenizer) -> None:
    tokens = any_tokenizer(["a red dog", "a red dog on the grass"])
    lengths = tokens.attention_mask.sum(dim=1)
    assert lengths[1] == tokens.input_ids.shape[1] > lengths[0]
    ends = tokens.input_ids.gather(1, lengths[:, None] - 1)
    assert (ends == any_tokenizer.eos_id).all()
    assert (tokens.input_ids[0, lengths[0] :] == any_tokenizer.pad_id).all()
    assert tokens.input_ids.max() < any_tokenizer.vocab_size
    assert tokens.truncated == 0


def test_truncation_is_counted_and_keeps_the_end_mark(any_tokenizer: Tokenizer) -> None:
    tokens = any_tokenizer(["a red dog", "a red dog on the grass " * 30, "the grass " * 30])
    assert tokens.truncated == 2
    assert tokens.input_ids.shape == (3, CONTEXT)
    assert (tokens.input_ids[1:, -1] == any_tokenizer.eos_id).all()


def test_save_and_load(any_tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(any_tokenizer, tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert type(again) is type(any_tokenizer)
    assert again(CAPTIONS).input_ids.tolist() == any_tokenizer(CAPTIONS).input_ids.tolist()
    names = ("vocab_size", "pad_id", "bos_id", "eos_id", "context_length")
    assert [getattr(again, n) for n in names] == [getattr(any_tokenizer, n) for n in names]


def test_pickling(any_tokenizer: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(any_tokenizer))
    assert again(CAPTIONS).input_ids.tolist() == any_tokenizer(CAPTIONS).input_ids.tolist()
    assert again.words() == any_tokenizer.words()


def _first_row(tokenizer: Tokenizer) -> list[int]:
    row: list[int] = tokenizer(["a red dog"]).input_ids[0].tolist()
    return row


def test_a_tokenizer_reaches_a_spawned_worker(tokenizer: SentencePieceTokenizer) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_first_row, (tokenizer,)) == _first_row(tokenizer)


def test_words_are_lower_case_whole_words(any_tokenizer: Tokenizer) -> None:
    words = any_tokenizer.words()
    assert "table" in words
    assert all(word == word.lower() and word.isalpha() for word in words)


def test_clip_ids_are_those_of_open_clip() -> None:
    import open_clip

    captions = ["A photo of a dog!", "tennis court", "emoji 🙂", "日本語 と Deutsch ä"]
    ours = ClipTokenizer(77)(captions)
    theirs = open_clip.get_tokenizer("ViT-B-32")(captions)[:, : ours.input_ids.shape[1]]
    assert ours.input_ids.tolist() == theirs.tolist()
    assert ClipTokenizer(77).decode(ours.input_ids[2].tolist()) == "emoji 🙂"


def test_an_end_mark_is_added_where_the_library_sets_none(tmp_path: Path) -> None:
    tokenizer = TransformersTokenizer(gpt_folder(tmp_path), CONTEXT)
    assert tokenizer.pad_id == tokenizer.eos_id
    tokens = tokenizer(["dog", "a red dog"])
    assert tokens.attention_mask.sum(dim=1).tolist() == [2, 4]
    assert tokens.input_ids[0, 1] == tokenizer.eos_id


def test_a_vocabulary_lost_on_loading_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"turns plain captions into nothing or unknown tokens.*kind: sentencepiece"):
        TransformersTokenizer(broken_folder(tmp_path), CONTEXT)


@pytest.mark.parametrize("kind", ["XLMRobertaTokenizer", "LlamaTokenizer", "T5Tokenizer", "AlbertTokenizer"])
def test_sentencepiece_files_that_transformers_drops_are_refused(kind: str, vocabulary: bytes, tmp_path: Path) -> None:
    (tmp_path / "raw.model").write_bytes(vocabulary)
    lost = getattr(transformers, kind)(vocab_file=str(tmp_path / "raw.model"))
    lost.save_pretrained(tmp_path / "saved")
    with pytest.raises(ModelError, match="turns plain captions into nothing"):
        TransformersTokenizer(tmp_path / "saved", CONTEXT)


def test_missing_or_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer '.*absent' cannot be loaded"):
        TransformersTokenizer(tmp_path / "absent", CONTEXT)
    with pytest.raises(ModelError, match=r"no tokenizer in .*mmcontrast_tokenizer.json cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "mmcontrast_tokenizer.json").write_text('{"kind": "wordle", "context_length": 3}')
    with pytest.raises(ModelError, match="is damaged: KeyError: 'wordle'"):
        load_tokenizer(tmp_path)
