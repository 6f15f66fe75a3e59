"""What is searched for: words, or a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from mmcontrast.data.pictures import IMAGE_SUFFIXES
from mmcontrast.errors import DataError
from mmcontrast.preprocess import decode_image

Kind = Literal["guess", "text", "picture"]


@dataclass(frozen=True)
class Query:
    """One of `picture` and words.

    Attributes:
        words: the text, or the path of the picture as it was given.
        picture: decoded, or None where the words are meant.
    """

    words: str
    picture: Image.Image | None = None


def read_query(given: str | Path | Image.Image, kind: Kind = "guess") -> Query:
    """Words, or a picture where a file of that name is one.

    Raises:
        DataError: there are no words; or a picture is meant, by its name or by `kind`, and it cannot be decoded.
    """
    if isinstance(given, Image.Image):
        return Query("a picture", given)
    words, path = str(given).strip(), Path(given).expanduser()
    if not words:
        raise DataError("the query is empty: give some words, or the path of a picture")
    looks_like_one = isinstance(given, Path) or Path(words).suffix.lower() in IMAGE_SUFFIXES
    if kind == "text" or (kind == "guess" and not looks_like_one and not os.path.isfile(path)):
        return Query(words)
    instead = "; --text searches for these words" if kind == "guess" else ""
    if not os.path.isfile(path):  # not Path.is_file, which raises at names that are too long
        raise DataError(f"query {words}: no such picture{instead}")
    try:
        return Query(words, decode_image(path))
    except DataError as error:
        if kind == "guess" and not looks_like_one:
            return Query(words)
        raise DataError(f"query {words}: {error}{instead}") from None


def read_queries(path: Path) -> list[Query]:
    """The queries of a text file, one a line; empty lines are passed over.

    Raises:
        DataError: it cannot be read, or there is none in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{path}: queries cannot be read: {why}") from None
    queries = [read_query(line) for line in lines if line.strip()]
    if not queries:
        raise DataError(f"{path}: no query in it")
    return queries
