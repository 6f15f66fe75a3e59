"""The same ids for the captions of the real data sets, in all their languages."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from exported_tokenizers import exported, ours

from mmcontrast.models import ClipTokenizer, SentencePieceTokenizer, Tokenizer, train_sentencepiece

WIDE = 1_000


@pytest.fixture(scope="module")
def captions(shared_data: Path) -> list[str]:
    """All captions and class names, each once."""
    found: set[str] = set()
    for file in sorted(shared_data.glob("*/*.parquet")):
        columns = [n for n in pq.read_schema(file).names if n.startswith("captions") or n in ("label_name", "emoji")]
        for column in pq.read_table(file, columns=columns).columns:
            for value in column.to_pylist():
                found.update(value if isinstance(value, list) else [value])
    return sorted(found)


@pytest.mark.parametrize(("kind", "share"), [("sentencepiece", 1), ("clip", 5)])
def test_captions_get_the_same_ids(kind: str, share: int, captions: list[str], tmp_path: Path) -> None:
    """Every caption of SentencePiece, every fifth of CLIP, whose cleaning takes half a minute for all."""
    tokenizer: Tokenizer = ClipTokenizer(WIDE)
    if kind == "sentencepiece":
        tokenizer = SentencePieceTokenizer(train_sentencepiece(captions[::40], 1_500), WIDE)
    loaded = exported(tokenizer, tmp_path / "export")
    chosen = captions[::share]
    theirs = [encoding.ids for encoding in loaded.backend_tokenizer.encode_batch(chosen)]
    assert len(chosen) > 15_000
    pairs = zip(chosen, ours(tokenizer, chosen), theirs, strict=True)
    assert [caption for caption, mine, other in pairs if mine != other] == []
