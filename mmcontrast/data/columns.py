"""Which column of a table holds what: chosen by the user, otherwise guessed from the names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmcontrast.errors import DataError

# In order of preference; compared in lower case.
# fmt: off
_IMAGE = (
    "image", "img", "picture", "photo", "images", "jpg", "jpeg", "png", "webp", "image_bytes",
    "image_path", "img_path", "image_file", "file_name", "filename", "image_name", "image_filename",
    "filepath", "file_path", "file", "path", "url", "image_url",
)
_CAPTION = (
    "captions", "caption", "texts", "text", "txt", "sentences", "sentence", "title", "titles",
    "description", "descriptions", "alt_text", "alt", "comment", "comments", "prompt",
)
_LABEL = (
    "label", "labels", "class", "category", "class_name", "label_name", "category_name", "classname",
    "cls", "class_id", "label_id", "target",
)
_GROUP = ("group_id", "group_ids", "groupid", "group_key", "groups", "group")
# fmt: on
_LABEL_TEXT = ("label_name", "class_name", "category_name", "classname")
_NUMBERED = re.compile(r"(captions?|sentences?|texts?)[_\- ]?\d+")
# A column called just "group" is often a coarse category; rows of a real group are few.
MAX_MEAN_GROUP_SIZE = 20


@dataclass(frozen=True)
class Wanted:
    """Columns named by the user; None = guess; "" (of captions: an empty tuple) = there is none."""

    image: str | None = None
    captions: tuple[str, ...] | None = None
    label: str | None = None
    group: str | None = None
    captions_optional: bool = False


@dataclass(frozen=True)
class Columns:
    """Columns in use.

    Attributes:
        image: column of the pictures.
        captions: columns whose captions are pooled; empty for a data set with labels only.
        label, group: optional columns.
        guessed: the roles ("image", "captions", "label", "group") that were guessed from the names.
    """

    image: str
    captions: tuple[str, ...]
    label: str | None = None
    group: str | None = None
    guessed: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for people: `image = filepath (guessed), captions = caption`."""
        values = {
            "image": self.image,
            "captions": " + ".join(self.captions),
            "label": self.label,
            "group": self.group,
        }
        parts = [f"{k} = {v}{' (guessed)' if k in self.guessed else ''}" for k, v in values.items() if v]
        return ", ".join(parts)


def choose_columns(found: Sequence[str], wanted: Wanted, where: str, note: str = "") -> Columns:
    """Check the user's columns against those found, and guess the rest.

    Args:
        found: names of the columns in the data.
        wanted: the user's choice.
        where: name of the data, for errors.
        note: a hint that is appended to errors (a suspicious separator, say).

    Raises:
        DataError: a named column is absent, or none looks like pictures, or neither captions nor labels exist.
    """
    listed = f"columns found: {', '.join(map(repr, found)) or 'none'}{note}"
    named = [wanted.image, *(wanted.captions or ()), wanted.label, wanted.group]
    for column in named:
        if column and column not in found:
            raise DataError(f"{where}: no column {column!r}; {listed}")
    free = [column for column in found if column not in named]
    image = wanted.image or _first(free, _IMAGE)
    if image is None:
        raise DataError(f"{where}: no column looks like pictures (set data.image_column); {listed}")
    free = [column for column in free if column != image]
    label = _first(free, _LABEL) if wanted.label is None else wanted.label or None
    captions = _guess_captions(free, label) if wanted.captions is None else wanted.captions
    if not captions and label is None and wanted.captions is None and not wanted.captions_optional:
        raise DataError(f"{where}: no column looks like captions (set data.caption_column); {listed}")
    group = _first(free, _GROUP) if wanted.group is None else wanted.group or None
    given = {"image": wanted.image, "captions": wanted.captions, "label": wanted.label, "group": wanted.group}
    filled = {"image": image, "captions": captions, "label": label, "group": group}
    guessed = tuple(role for role in filled if given[role] is None and filled[role])
    return Columns(image, tuple(captions), label, group, guessed)


def prefer_label_text(columns: Columns, found: Sequence[str], has_names: bool) -> Columns:
    """Take a `label_name` column beside a guessed numeric label whose names are unknown."""
    if has_names or "label" not in columns.guessed:
        return columns
    text = _first(found, _LABEL_TEXT)
    return replace(columns, label=text) if text else columns


def drop_coarse_group(columns: Columns, values: Sequence[Any]) -> Columns:
    """Take back the guess of a column called `group` that splits the sample into few big classes.

    Equal groups are never negatives of one another: a coarse category would silence nearly all negatives.

    Args:
        columns: the columns so far.
        values: the group column of the first rows.
    """
    if "group" not in columns.guessed or (columns.group or "").lower() not in ("group", "groups"):
        return columns
    present = [str(value) for value in values if value is not None]
    if len(present) <= MAX_MEAN_GROUP_SIZE * len(set(present)):
        return columns
    return replace(columns, group=None, guessed=tuple(role for role in columns.guessed if role != "group"))


def _first(found: Sequence[str], names: Sequence[str]) -> str | None:
    by_name = {column.strip().lower(): column for column in reversed(found)}
    return next((by_name[name] for name in names if name in by_name), None)


def _guess_captions(found: Sequence[str], label: str | None) -> tuple[str, ...]:
    free = [column for column in found if column != label]
    best = _first(free, _CAPTION)
    if best:
        return (best,)
    numbered = tuple(column for column in free if _NUMBERED.fullmatch(column.strip().lower()))
    if numbered:
        return numbered
    return tuple(column for column in free if column.lower().startswith("caption"))[:1]
