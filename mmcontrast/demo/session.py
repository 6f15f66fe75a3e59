"""What the demo answers, without anything of how it looks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from mmcontrast.embedding import embed_texts
from mmcontrast.errors import DataError, printable
from mmcontrast.evaluation.zero_shot import DEFAULT_TEMPLATES, class_weights
from mmcontrast.preprocess import decode_image
from mmcontrast.searching import Hit, Query, Searcher, read_query

MAX_UPLOAD_PIXELS = 50_000_000
MAX_WORDS = 2000
MAX_CLASSES = 200
MOST_SHOWN = 100
THUMBNAIL = 512
_LONGEST_CAPTION = 140


@dataclass(frozen=True)
class Found:
    """Pictures to show.

    Attributes:
        pictures: each, scaled down, and a line about it.
        notes: what the user should know.
    """

    pictures: list[tuple[Image.Image, str]]
    notes: list[str] = field(default_factory=list)


class Session:
    """Answers for one collection and one model.

    Args:
        searcher: over the pictures.
    """

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher

    def by_words(self, words: str, k: int) -> Found:
        """Pictures that fit the words.

        Raises:
            DataError: there are none, or too many for anybody to mean them.
        """
        if len(words) > MAX_WORDS:
            raise DataError(f"{len(words):,} characters are more than the {MAX_WORDS:,} that are taken here")
        return self._found(read_query(words, "text"), k)

    def by_picture(self, path: str | None, k: int) -> Found:
        """Pictures like an uploaded one.

        Raises:
            DataError: there is none, it cannot be decoded, or it is larger than MAX_UPLOAD_PIXELS.
        """
        return self._found(Query("the picture", _uploaded(path)), k)

    def classify(self, path: str | None, names: str) -> dict[str, float]:
        """Probabilities that an uploaded picture is of each of some classes, one a line or between commas.

        They are those of the model's own scale and prompts, and add up to 1: one of the classes is taken to be true.

        Raises:
            DataError: as `by_picture`; or there are fewer than two classes, or more than MAX_CLASSES.
        """
        classes = class_names(names)
        picture = _uploaded(path)
        encoder = self.searcher.encoder
        weights = class_weights(
            lambda prompts: embed_texts(encoder, prompts), classes, encoder.templates or DEFAULT_TEMPLATES
        )
        cosines = weights @ encoder.encode_image([picture])[0].float().cpu()
        scale = encoder.logit_scale.detach().float().cpu().exp()
        shares = torch.softmax(scale * cosines, dim=0)
        return dict(zip(classes, shares.tolist(), strict=True))

    def _found(self, query: Query, k: int) -> Found:
        notes: list[str] = []
        hits = self.searcher.search(query, min(int(k), MOST_SHOWN), notes.append)
        pictures = []
        for hit in hits:
            try:
                picture = self.searcher.picture(hit)
            except DataError as error:
                notes.append(f"{hit.name} cannot be shown: {error}")
                continue
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            pictures.append((picture, line_about(hit)))
        return Found(pictures, [printable(note) for note in notes])


def class_names(text: str) -> list[str]:
    """Different names from lines or between commas, in their order.

    Raises:
        DataError: fewer than two, or more than MAX_CLASSES.
    """
    names = [" ".join(name.split()) for name in re.split(r"[\n,;]", text)]
    found = list(dict.fromkeys(name for name in names if name))
    if len(found) < 2:
        raise DataError("give at least two different classes, one a line or with commas between them")
    if len(found) > MAX_CLASSES or len(text) > MAX_CLASSES * 100:
        raise DataError(f"{len(found)} classes are more than the {MAX_CLASSES} that are taken here")
    return found


def line_about(hit: Hit) -> str:
    """Score, caption or name of a picture."""
    text = next(iter(hit.captions), hit.name)
    text = text if len(text) <= _LONGEST_CAPTION else f"{text[:_LONGEST_CAPTION]}..."
    return printable(f"{hit.score:.3f} · {text}")


def _uploaded(path: str | None) -> Image.Image:
    if not path:
        raise DataError("choose a picture first")
    try:
        return decode_image(Path(path), MAX_UPLOAD_PIXELS)
    except DataError as error:
        # Without the name of the option of training that this limit has there.
        raise DataError(str(error).removesuffix(" (data.max_image_pixels)")) from None
