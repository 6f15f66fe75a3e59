"""CLIP_benchmark's layout of WebDataset tars: what the files beside the tars say, and what is in a label vector.

FOLDER/
  test/{nshards.txt, 0.tar, 1.tar, ...}    KEY.jpg + KEY.txt (a caption a line), KEY.cls or KEY.npy
  dataset_type.txt                         retrieval, multilabel or classification
  classnames.txt                           one a line, in the order of the labels
  zeroshot_classification_templates.txt    one a line, with {c} for the class name
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mmcontrast.data.map_source import RowSource
from mmcontrast.data.opening import is_remote
from mmcontrast.data.rows import PairSource
from mmcontrast.errors import DataError

Kind = Literal["retrieval", "classification", "multilabel"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSNAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
KIND, SHARDS = "dataset_type.txt", "nshards.txt"
LABEL_VECTOR = "npy"
"""Extension of the members that hold a picture's classes as zeros and ones."""


@dataclass(frozen=True)
class Prompts:
    """What a data set in this layout says of its classes.

    Attributes:
        classnames: as they are to stand in prompts, or None.
        templates: with "{c}", or None.
    """

    classnames: list[str] | None = None
    templates: list[str] | None = None


def prompts_of(source: PairSource) -> Prompts:
    """Class names and templates that lie beside the tars of a source; of any other source there are none."""
    files = source.files if isinstance(source, RowSource) else []
    if not files or not files[0].lower().endswith(".tar"):
        return Prompts()
    templates = [line for line in read_beside(files[0], TEMPLATES) or [] if line]
    return Prompts(read_beside(files[0], CLASSNAMES) or None, templates or None)


def kind_of(file: str) -> str | None:
    """What the dataset_type.txt of a tar says."""
    lines = read_beside(file, KIND)
    return lines[0].lower() if lines else None


def read_beside(file: str, name: str) -> list[str] | None:
    """Stripped lines of a text file beside a tar, or in the folder above it; None where there is none.

    Raises:
        DataError: it is no text.
    """
    if is_remote(file):
        return None
    for folder in (Path(file).parent, Path(file).parent.parent):
        if (folder / name).is_file():
            return read_lines(folder / name)
    return None


def read_lines(path: Path) -> list[str]:
    """Stripped lines of a UTF-8 text file; DataError if it is none."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path}: cannot be read as UTF-8 text") from None


def check_shards(files: Iterable[str | Path]) -> None:
    """Raise DataError where a folder of tars has more or fewer of them than its nshards.txt says."""
    counts: dict[Path, int] = {}
    for file in files:
        counts[Path(file).parent] = counts.get(Path(file).parent, 0) + 1
    for folder, count in counts.items():
        if not (folder / SHARDS).is_file():
            continue
        text = "".join(read_lines(folder / SHARDS))
        if not text.isdecimal() or int(text) != count:
            raise DataError(f"{folder / SHARDS} says {text[:20]!r}, but there are {count} tars: is one missing?")


def classes_in(data: bytes, names: Sequence[str]) -> list[str]:
    """The classes that a label vector marks.

    Raises:
        ValueError: it is no vector of so many numbers.
    """
    try:
        vector = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header can make numpy stumble over anything
        raise ValueError(f"the label vector cannot be read: {type(error).__name__}") from None
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype.kind not in "biuf":
        raise ValueError("the labels are no vector of numbers")
    if len(vector) != len(names):
        raise ValueError(f"the label vector has {len(vector)} numbers, {CLASSNAMES} has {len(names)} names")
    return [names[place] for place in np.flatnonzero(vector).tolist()]


def label_vector(numbers: Iterable[int], classes: int) -> bytes:
    """The classes of a picture as zeros and ones, in numpy's format."""
    vector = np.zeros(classes, dtype=np.uint8)
    vector[list(numbers)] = 1
    buffer = io.BytesIO()
    np.save(buffer, vector, allow_pickle=False)
    return buffer.getvalue()
