from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from exported_tokenizers import bert_tokenizer, endless_tokenizer, exported, ours, sentencepiece_model

from mmcontrast.errors import ModelError
from mmcontrast.export import charsmap
from mmcontrast.export.tokenizer_files import FILES, write_tokenizer
from mmcontrast.export.tokenizer_probes import COMMON, PROBES, first_difference
from mmcontrast.models import (
    ClipTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    TransformersTokenizer,
    train_sentencepiece,
)

KINDS: dict[str, Callable[[Path], Tokenizer]] = {
    "clip": lambda folder: ClipTokenizer(24),
    "sentencepiece": lambda folder: SentencePieceTokenizer(sentencepiece_model(byte_fallback=True), 24),
    "bert": bert_tokenizer,
    "endless": endless_tokenizer,
}


@pytest.fixture(params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return KINDS[request.param](tmp_path / "own")


def test_transformers_gives_the_same_ids_on_every_probe(tokenizer: Tokenizer, tmp_path: Path) -> None:
    loaded = exported(tokenizer, tmp_path / "export")
    wide = copy.copy(tokenizer)
    wide.context_length = 10_000
    rows = loaded(list(PROBES), truncation=True, max_length=10_000)["input_ids"]
    assert dict(zip(PROBES, rows, strict=True)) == dict(zip(PROBES, ours(wide, PROBES), strict=True))


def test_captions_are_cut_at_the_context_and_keep_their_end_mark(tokenizer: Tokenizer, tmp_path: Path) -> None:
    loaded = exported(tokenizer, tmp_path / "export")
    captions = ["a dog", "a red dog is on the grass " * 20]
    assert loaded.model_max_length == tokenizer.context_length
    batch = loaded(captions, truncation=True, padding=True, return_tensors="pt")
    tokens = tokenizer(captions)
    assert sorted(batch) == ["attention_mask", "input_ids"]
    assert batch["attention_mask"].tolist() == tokens.attention_mask.tolist()
    assert (batch["input_ids"] * tokens.attention_mask).tolist() == (tokens.input_ids * tokens.attention_mask).tolist()
    assert batch["input_ids"][1, -1] == tokenizer.eos_id


def test_files_are_the_same_when_written_again_and_say_what_config_needs(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    told = write_tokenizer(tokenizer, first)
    write_tokenizer(tokenizer, second)
    assert write_tokenizer(tokenizer, second) == told
    assert sorted(path.name for path in first.iterdir()) == sorted(FILES)
    assert [(first / name).read_bytes() for name in FILES] == [(second / name).read_bytes() for name in FILES]
    loaded = transformers.AutoTokenizer.from_pretrained(first)
    assert (told.pad_id, told.eos_id) == (loaded.pad_token_id, loaded.eos_token_id)
    assert told.eos_id == tokenizer.eos_id
    assert told.bos_id == tokenizer.bos_id
    assert told.vocab_size == len(loaded) == tokenizer.vocab_size
    config = json.loads((first / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # version 4 knows no other
    assert "backend" not in config


def test_an_exported_tokenizer_can_be_taken_in_and_exported_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    exported(tokenizer, tmp_path / "first")
    taken_in = TransformersTokenizer(tmp_path / "first", tokenizer.context_length)
    assert ours(taken_in, COMMON) == ours(tokenizer, COMMON)
    again = exported(taken_in, tmp_path / "second")
    assert again(list(COMMON), truncation=True)["input_ids"] == ours(tokenizer, COMMON)


def test_nothing_is_written_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    charsmap.normalizers_of.cache_clear()
    write_tokenizer(SentencePieceTokenizer(sentencepiece_model(normalization_rule_name="nfkc"), 24), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_longer_limit_can_be_told_to_transformers(tmp_path: Path) -> None:
    told = write_tokenizer(ClipTokenizer(24), tmp_path, max_length=512)
    assert told.max_length == 512
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).model_max_length == 512


@pytest.mark.parametrize("model_type", ["clip", "siglip", "vision-text-dual-encoder"])
def test_a_model_beside_it_does_not_change_the_tokenizer(model_type: str, tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer(sentencepiece_model(byte_fallback=True), 24)
    write_tokenizer(tokenizer, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    rows = transformers.AutoTokenizer.from_pretrained(tmp_path)(list(COMMON))["input_ids"]
    assert rows == loaded(list(COMMON))["input_ids"]


@pytest.mark.parametrize(
    "text",
    [
        "Tom &amp; Jerry &quot;here&quot; &amp;amp; it&#39;s R&amp;D",
        "<start_of_text> in the middle <END_OF_TEXT>",
        "'ſ It'S",
        "Ａ\u0301ｅ\u0301 ﬁ",
    ],
)
def test_clip_cleans_like_open_clip(text: str, tmp_path: Path) -> None:
    loaded = exported(ClipTokenizer(77), tmp_path / "export")
    assert loaded([text])["input_ids"] == ours(ClipTokenizer(77), [text])


@pytest.mark.parametrize("kind", ["whitespace", "lower", "canonicalize"])
def test_what_open_clip_cleans_before_a_transformers_tokenizer(kind: str, tmp_path: Path) -> None:
    tokenizer = bert_tokenizer(tmp_path / "own", 10_000, cleaning=kind)
    loaded = exported(tokenizer, tmp_path / "export")
    captions = [*PROBES, "Tom &amp; Jerry’s  RED_dog’s [SEP] ", "[MASK]ed [PAD] <s>"]
    rows = loaded(captions)["input_ids"]
    assert dict(zip(captions, rows, strict=True)) == dict(zip(captions, ours(tokenizer, captions), strict=True))


def test_the_exclamation_mark_of_clip_is_no_padding(tmp_path: Path) -> None:
    loaded = exported(ClipTokenizer(77), tmp_path / "export")
    assert loaded.pad_token_id == loaded.eos_token_id == 49407
    assert loaded(["hello!"])["input_ids"] == [[49406, 3306, 256, 49407]]


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "identity"])
@pytest.mark.parametrize(
    "values",
    [
        {"byte_fallback": True},
        {},
        {"remove_extra_whitespaces": False},
        {"remove_extra_whitespaces": False, "add_dummy_prefix": False, "byte_fallback": True},
        {"split_by_whitespace": False},
        {"user_defined_symbols": ["<img>", "dog"]},
    ],
    ids=lambda values: ",".join(values) or "plain",
)
def test_foreign_sentencepiece_models(rule: str, values: dict[str, Any], tmp_path: Path) -> None:
    model = sentencepiece_model(normalization_rule_name=rule, **values)
    tokenizer = SentencePieceTokenizer(model, 10_000)
    loaded = exported(tokenizer, tmp_path / "export")
    captions = [*PROBES, "an <img> of a dogdog", "dog"]
    rows = loaded(captions, truncation=True)["input_ids"]
    assert dict(zip(captions, rows, strict=True)) == dict(zip(captions, ours(tokenizer, captions), strict=True))


def test_text_comes_back(tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer(train_sentencepiece(["a red dog", "ein Hund"] * 20, 300), 77)
    loaded = exported(tokenizer, tmp_path / "export")
    for text in ("a red dog 🐞", "一只狗"):
        assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    clip = exported(ClipTokenizer(77), tmp_path / "clip")
    assert clip.decode(clip("a red dog 🐞")["input_ids"], skip_special_tokens=True).strip() == "a red dog 🐞"


def test_what_cannot_be_expressed_is_refused(tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer(sentencepiece_model(model_type="bpe"), 24)
    with pytest.raises(ModelError, match=r"only SentencePiece models of type unigram.*this one is of type bpe"):
        write_tokenizer(tokenizer, tmp_path)
    tokenizer = SentencePieceTokenizer(sentencepiece_model(treat_whitespace_as_suffix=True), 24)
    with pytest.raises(ModelError, match="treat_whitespace_as_suffix cannot be expressed"):
        write_tokenizer(tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_own_rules_are_refused(tmp_path: Path) -> None:
    rules = tmp_path / "rules.tsv"
    rules.write_text("".join(f"{ord(a):x} {ord(b):x}\t{ord('x'):x}\n" for a in "abcdefgh" for b in "ijklmnop"))
    tokenizer = SentencePieceTokenizer(sentencepiece_model(normalization_rule_tsv=str(rules)), 24)
    with pytest.raises(ModelError, match=r"normalisation rules of its own.*train it with normalization_rule_name nfkc"):
        write_tokenizer(tokenizer, tmp_path)


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bert_tokenizer(tmp_path / "own")
    saved = tokenizer.save

    def save(folder: Path) -> None:
        saved(folder)
        (folder / "tokenizer.json").unlink()

    monkeypatch.setattr(tokenizer, "save", save)
    with pytest.raises(ModelError, match="no fast form"):
        write_tokenizer(tokenizer, tmp_path)


class Shifted(ClipTokenizer):
    """Gives other ids to a text with `mark` in it."""

    def __init__(self, mark: str) -> None:
        super().__init__(77)
        self.mark = mark

    def __call__(self, captions: Any) -> Any:
        tokens = super().__call__(captions)
        tokens.input_ids[[self.mark in caption for caption in captions], 1] += 1
        return tokens

    def __getstate__(self) -> dict[str, Any]:
        return {"mark": self.mark}


def test_other_ids_are_found_before_anything_is_exported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelError, match=r"would give other ids than the model's tokenizer: 'ein gro"):
        write_tokenizer(Shifted("ß"), tmp_path)
    with caplog.at_level(logging.WARNING):
        write_tokenizer(Shifted("\x07"), tmp_path)
    assert "gives odd texts other ids than the model's tokenizer: 'null" in caplog.text


def test_the_first_difference_is_shown() -> None:
    def same(captions: Any) -> list[list[int]]:
        return [[len(caption), 7] for caption in captions]

    def other(captions: Any) -> list[list[int]]:
        return [[len(caption), 7 + (caption == "b")] for caption in captions]

    assert first_difference(same, same, ["a", "b"]) is None
    assert first_difference(same, other, ["a", "b"]) == "'b': ...[1, 7] against ...[1, 8]"
    assert (
        first_difference(same, lambda rows: [row[:1] for row in same(rows)], ["a"]) == "'a': ...[1, 7] against ...[1]"
    )
