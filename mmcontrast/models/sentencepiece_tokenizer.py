"""SentencePiece vocabularies, trained on the user's own captions in any language."""

from __future__ import annotations

import io
import itertools
import logging
import random
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from mmcontrast.errors import ModelError
from mmcontrast.models.token_packing import check_captions, pack
from mmcontrast.types import Tokens

log = logging.getLogger(__name__)

# The end mark must not be 2: transformers then pools at the greatest id of the caption instead of at the end.
PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3
MAX_SENTENCES = 1_000_000
MAX_CHARACTERS = 4_000
_THREADS = 2  # a constant, not the machine's: sums of floats, and so the vocabulary, depend on it
_COMMON = 10  # occurrences
_MAX_PIECE = 16  # characters; the library's own limit
_MODEL_FILE = "sentencepiece.model"
_WORD_START = "▁"


class SentencePieceTokenizer:
    """Begin mark, pieces, end mark.

    Args:
        model: the bytes of a SentencePiece model file.
        context_length: tokens of the longest caption, marks included.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, context_length: int) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ModelError(f"not a SentencePiece model: {str(error).splitlines()[0]}") from None
        ids = {name: getattr(self._processor, f"{name}_id")() for name in ("pad", "bos", "eos")}
        if absent := [name for name, value in ids.items() if value < 0]:
            raise ModelError(
                f"the SentencePiece model has no {' and no '.join(absent)} id; train it with "
                f"--pad_id={PAD_ID} --unk_id={UNK_ID} --bos_id={BOS_ID} --eos_id={EOS_ID}"
            )
        self.context_length = context_length
        self.vocab_size = int(self._processor.vocab_size())
        self.pad_id, self.bos_id, self.eos_id = int(ids["pad"]), int(ids["bos"]), int(ids["eos"])

    @classmethod
    def from_file(cls, path: str | Path, context_length: int) -> SentencePieceTokenizer:
        """Of a `.model` file."""
        try:
            return cls(Path(path).read_bytes(), context_length)
        except OSError as error:
            raise ModelError(f"SentencePiece model {path} cannot be read: {error.strerror}") from None

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """b captions to ids and mask (b, t), padded to the longest one."""
        check_captions(captions)
        ids = [[self.bos_id, *row, self.eos_id] for row in self._processor.encode(list(captions), out_type=int)]
        return pack(ids, self.context_length, self.pad_id, self.eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The (normalised) text of ids, marks left out."""
        return str(self._processor.decode([i for i in ids if i not in (self.pad_id, self.bos_id, self.eos_id)]))

    def words(self) -> set[str]:
        """Pieces that can stand as a whole word, in lower case."""
        pieces = (self._processor.id_to_piece(i) for i in range(self.vocab_size))
        starts = (piece[1:].lower() for piece in pieces if piece.startswith(_WORD_START))
        return {word for word in starts if word.isalpha()}

    def model_bytes(self) -> bytes:
        """The SentencePiece model file."""
        return bytes(self._processor.serialized_model_proto())

    def save(self, folder: Path) -> None:
        """Write the model file into an existing folder."""
        (folder / _MODEL_FILE).write_bytes(self.model_bytes())

    @classmethod
    def load(cls, folder: Path, context_length: int) -> SentencePieceTokenizer:
        """The inverse of `save`."""
        return cls.from_file(folder / _MODEL_FILE, context_length)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model_bytes(), "context_length": self.context_length}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def train_sentencepiece(
    captions: Iterable[str],
    vocab_size: int,
    *,
    seed: int = 0,
    character_coverage: float = 0.9995,
    max_captions: int = MAX_SENTENCES,
) -> bytes:
    """Train a unigram vocabulary; the same captions and seed give the same bytes.

    Text is normalised by NFKC and case folding. Characters too rare for the vocabulary are spelt in bytes, so
    nothing becomes unknown. A corpus too small for `vocab_size` gets a smaller vocabulary, and a log line.

    Args:
        captions: read once; no more than `max_captions` of them are held.
        vocab_size: pieces, of which 4 are marks and 256 are bytes.
        seed: of the choice of captions when there are more than `max_captions`.
        character_coverage: share of the text's characters that get a piece of their own.
        max_captions: a random sample of so many is used at most.

    Returns:
        The model file, for `SentencePieceTokenizer`.

    Raises:
        ModelError: there is no text, or `vocab_size` is below the number of characters.
    """
    model = io.BytesIO()
    lines = _sample(captions, max_captions, seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain(lines, _repeated_words(lines)),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            normalization_rule_name="nfkc_cf",
            character_coverage=character_coverage,
            byte_fallback=True,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            max_sentence_length=4 * MAX_CHARACTERS,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise ModelError(_training_error(str(error), vocab_size)) from None
    result = model.getvalue()
    got = sentencepiece.SentencePieceProcessor(model_proto=result).vocab_size()
    if got < vocab_size:
        log.warning("the captions give a vocabulary of %d pieces, not %d", got, vocab_size)
    return result


def _sample(captions: Iterable[str], size: int, seed: int) -> list[str]:
    """Up to `size` captions, each with the same chance (the library's own choice knows no seed)."""
    rng = random.Random(seed)
    kept: list[str] = []
    lines = (line for caption in captions if (line := " ".join(caption.split())[:MAX_CHARACTERS]))
    for position, line in enumerate(lines):
        if len(kept) < size:
            kept.append(line)
        elif (place := rng.randrange(position + 1)) < size:
            kept[place] = line
    return kept


def _repeated_words(lines: list[str]) -> list[str]:
    """Each common word once more, with a full stop behind it.

    SentencePiece only tries pieces that occur in two different words. Where captions speak in few words, most would
    never be tried whole and be cut to splinters instead (UCM captions: 23 tokens each instead of 15). Rare words
    would weigh too much for being repeated.
    """
    counts = Counter(word.strip(string.punctuation) for line in lines for word in line.casefold().split())
    return [f"{word}." for word, count in counts.items() if count >= _COMMON and 1 < len(word) < _MAX_PIECE]


def _training_error(message: str, vocab_size: int) -> str:
    if needed := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"model.tokenizer.vocab_size is {vocab_size}; these captions need at least {needed[1]}"
    if "sentences_.empty()" in message:
        return "there are no captions to train a vocabulary on"
    return f"the vocabulary cannot be trained: {message.splitlines()[0]}"
