from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from model_fakes import CAPTIONS, CONTEXT, CORPUS

from mmcontrast.errors import ModelError
from mmcontrast.models import SentencePieceTokenizer, train_sentencepiece


def test_training_is_deterministic_and_takes_an_iterator(vocabulary: bytes) -> None:
    def captions() -> Iterator[str]:
        yield from CORPUS

    assert train_sentencepiece(captions(), 420) == vocabulary


def test_a_sample_of_a_large_corpus_depends_only_on_the_seed() -> None:
    corpus = ["".join(chr(97 + (i * i * k) % 26) for k in (1, 3, 5, 7, 11)) for i in range(2000)]
    first, again, other = (train_sentencepiece(corpus, 400, seed=seed, max_captions=120) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("caption", CAPTIONS)
def test_all_scripts_come_back(tokenizer: SentencePieceTokenizer, caption: str) -> None:
    tokens = SentencePieceTokenizer(tokenizer.model_bytes(), 200)([caption])
    # Full-width forms are folded to the usual ones and upper to lower case; nothing is lost.
    assert tokenizer.decode(tokens.input_ids[0].tolist()) == caption.lower()
    assert 1 not in tokens.input_ids  # <unk>


def test_characters_never_seen_in_training_are_spelt_in_bytes(tokenizer: SentencePieceTokenizer) -> None:
    tokens = tokenizer(["жук 🐞"])
    assert 1 not in tokens.input_ids
    assert tokenizer.decode(tokens.input_ids[0].tolist()) == "жук 🐞"


def test_normalisation_folds_case_and_width(tokenizer: SentencePieceTokenizer) -> None:
    plain, odd = tokenizer(["a red dog"]), tokenizer(["Ａ  RED Dog"])
    assert plain.input_ids.tolist() == odd.input_ids.tolist()


def test_marks_and_truncation(tokenizer: SentencePieceTokenizer) -> None:
    tokens = tokenizer(["a red dog", "犬が芝生の上を走っている" * 20])
    assert (tokens.input_ids[:, 0] == tokenizer.bos_id).all()
    assert tokens.truncated == 1
    assert tokens.input_ids.shape[1] == CONTEXT
    assert tokens.input_ids[1, -1] == tokenizer.eos_id
    assert tokenizer.eos_id != 2  # transformers would pool at the greatest id


def test_words_are_whole_words(tokenizer: SentencePieceTokenizer) -> None:
    # Words of a small corpus stay whole although no other word contains them.
    assert {"table", "car", "small", "large", "grass", "road"} <= tokenizer.words()
    assert not any(word.startswith("<") or "▁" in word for word in tokenizer.words())


def test_a_small_corpus_gets_a_smaller_vocabulary_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = train_sentencepiece(CORPUS, 8000)
    size = SentencePieceTokenizer(model, CONTEXT).vocab_size
    assert size < 8000
    assert caplog.messages == [f"the captions give a vocabulary of {size} pieces, not 8000"]


def test_errors_name_the_mend() -> None:
    with pytest.raises(ModelError, match=r"vocab_size is 265; these captions need at least \d+"):
        train_sentencepiece(CORPUS, 265)
    with pytest.raises(ModelError, match="there are no captions"):
        train_sentencepiece(["", "  "], 500)
    with pytest.raises(ModelError, match="not a SentencePiece model"):
        SentencePieceTokenizer(b"nonsense", CONTEXT)
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        SentencePieceTokenizer.from_file("absent.model", CONTEXT)


def test_a_foreign_model_without_padding_is_refused() -> None:
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, vocab_size=100, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises(ModelError, match="has no pad id; train it with --pad_id=0"):
        SentencePieceTokenizer(out.getvalue(), CONTEXT)
