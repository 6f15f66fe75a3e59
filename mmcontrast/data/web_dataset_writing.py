"""Any source of pairs in CLIP_benchmark's layout of WebDataset tars; see `web_dataset` for the layout."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from mmcontrast.data.rows import PairSource
from mmcontrast.data.web_dataset import CLASSNAMES, KIND, TEMPLATES, Kind, label_vector, read_lines
from mmcontrast.data.web_dataset_folder import claimed, number_shards, replace_text, write_tars
from mmcontrast.errors import DataError
from mmcontrast.preprocess import FORMATS, MAX_IMAGE_PIXELS, decode_image
from mmcontrast.types import BadRow

SHARD_ROWS = 10_000
LEAST_SHARDS = 8
"""CLIP_benchmark fails where a worker finds no tar of its own, and starts four of them unless told otherwise."""
_KEPT: dict[str, Literal["jpg", "png", "webp"]] = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_ORIENTATION, _UPRIGHT = 0x0112, 1


@dataclass
class Written:
    """What a split that was written holds.

    Attributes:
        kind: of the data set.
        pictures, captions, classes, shards: how many.
        encoded_anew: pictures that became lossless PNG, because CLIP_benchmark would not see them as we do.
        left_out: pictures without label, or that cannot be decoded.
    """

    kind: Kind
    pictures: int = 0
    captions: int = 0
    classes: int = 0
    shards: int = 0
    encoded_anew: int = 0
    left_out: list[BadRow] = field(default_factory=list)


def write_web_dataset(
    source: PairSource,
    output: str | Path,
    kind: Kind,
    *,
    split: str = "test",
    classnames: Sequence[str] | None = None,
    templates: Sequence[str] = (),
    shard_rows: int = SHARD_ROWS,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    progress: Callable[[int], object] | None = None,
) -> Written:
    """Write one split; it is there whole, or not at all.

    The bytes of JPEG, PNG and WebP pictures are kept. Other formats, 16-bit greys and pictures that lie on their side
    (EXIF), which CLIP_benchmark would clip or not turn, become lossless PNG.

    Args:
        source: pictures with captions (retrieval), labels (classification), or captions that are names of classes
            (multilabel).
        output: new, empty, or with other splits of the same data set.
        kind: of the data set.
        split: name of the split.
        classnames: all classes in the order of their labels; None takes the source's own or, for multilabel, those
            that occur, sorted.
        templates: prompts for classification; what is written already is kept if there are none.
        shard_rows: pictures of a tar at most; there are at least LEAST_SHARDS tars.
        max_image_pixels: larger pictures count as undecodable.
        progress: called with the number of further pictures.

    Raises:
        DataError: the source lacks labels, captions or class names; the folder holds something else or this split;
            or it cannot be written to.
    """
    folder = Path(output)
    names = _class_names(source, kind, classnames)
    notes: dict[str, list[str]] = {KIND: [kind]}
    if names is not None:
        notes[CLASSNAMES] = names
        notes[TEMPLATES] = _templates(templates, folder)
    shards = max(min(LEAST_SHARDS, len(source)), -(-len(source) // shard_rows))
    with claimed(folder, split, notes) as part:
        written = Written(kind, classes=len(names or []))
        write_tars(part, _samples(source, names, written, max_image_pixels, progress), shards, len(source))
        written.shards = number_shards(part)
        if not written.pictures:
            raise DataError(f"{source.name}: no picture can be written; {_first(written)}")
        for name, lines in notes.items():
            replace_text(folder / name, lines)
        part.rename(folder / split)
    return written


def _class_names(source: PairSource, kind: Kind, given: Sequence[str] | None) -> list[str] | None:
    if kind == "retrieval":
        if not source.columns.captions:
            raise DataError(f"{source.name}: retrieval needs captions, and it has none (data.caption_column)")
        return None
    if kind == "multilabel":
        names = sorted({text for i in range(len(source)) for text in source.captions(i)})
        if not names:
            raise DataError(f"{source.name}: multilabel needs captions that name classes, and it has none")
    else:
        if source.columns.label is None:
            raise DataError(f"{source.name}: classification needs a label column, and it has none (data.label_column)")
        names = source.label_names or []
        if not names and given is None:
            raise DataError(f"{source.name}: its labels are numbers without names: list the names (--classnames)")
        if given is not None and names and len(given) != len(names):
            raise DataError(f"{len(given)} class names are given, {source.name} has {len(names)} classes")
    names = [" ".join(name.split()) for name in (names if given is None else given)]
    if not all(names):
        raise DataError(f"class {names.index('')} has an empty name, which {CLASSNAMES} cannot hold")
    return names


def _templates(templates: Sequence[str], folder: Path) -> list[str]:
    """As CLIP_benchmark fills them in: by str.format, with {c} alone."""
    if not templates and (folder / TEMPLATES).is_file():
        return read_lines(folder / TEMPLATES)
    lines = [" ".join(template.replace("{}", "{c}").split()) for template in templates]
    for line in lines:
        if "{c}" not in line or set(line.replace("{c}", "")) & set("{}"):
            raise DataError(f"template {line!r}: {{c}} must stand for the class name, and no other braces in it")
    return lines


def _samples(
    source: PairSource,
    names: list[str] | None,
    written: Written,
    max_pixels: int,
    progress: Callable[[int], object] | None,
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Position and members of each picture; what cannot be used is noted in `written`."""
    number_of = {name: number for number, name in enumerate(names or [])}
    for i in range(len(source)):
        try:
            suffix, answer, captions = _answer(source, i, written.kind, number_of)
            extension, data, anew = _picture(source.image(i), max_pixels)
        except DataError as error:
            written.left_out.append(BadRow(source.name, source.row_number(i), str(error)))
        else:
            written.pictures += 1
            written.captions += captions
            written.encoded_anew += anew
            yield i, {extension: data, suffix: answer}
        if progress:
            progress(1)


def _answer(source: PairSource, i: int, kind: Kind, number_of: dict[str, int]) -> tuple[str, bytes, int]:
    """Extension and bytes of what belongs to picture i, and how many captions that are."""
    if kind == "classification":
        label = source.label(i)
        if label is None:
            raise DataError("no label")
        if label >= len(number_of):
            raise DataError(f"label {label} has no name: there are {len(number_of)} class names")
        return "cls", str(label).encode(), 0
    # A caption is a line: those of several become one.
    captions = [" ".join(caption.splitlines()) for caption in source.captions(i)]
    if kind == "retrieval":
        return "txt", "\n".join(captions).encode(), len(captions)
    unknown = [caption for caption in captions if " ".join(caption.split()) not in number_of]
    if unknown:
        raise DataError(f"{unknown[0]!r} is none of the {len(number_of)} class names")
    numbers = [number_of[" ".join(caption.split())] for caption in captions]
    return "npy", label_vector(numbers, len(number_of)), 0


def _picture(source: bytes | Path, max_pixels: int) -> tuple[str, bytes, bool]:
    """Extension and bytes of a picture, and whether it had to be encoded anew."""
    data = source if isinstance(source, bytes) else _read(source)
    decoded = decode_image(data, max_pixels)  # a damaged one would end CLIP_benchmark in the middle
    if (extension := _seen_alike(data)) is not None:
        return extension, data, False
    buffer = io.BytesIO()
    decoded.save(buffer, format="PNG")
    return "png", buffer.getvalue(), True


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None


def _seen_alike(data: bytes) -> str | None:
    """Extension of a picture that plain Pillow, as in CLIP_benchmark, turns into the same pixels as we do."""
    with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        warnings.simplefilter("ignore")
        try:
            turned = image.getexif().get(_ORIENTATION, _UPRIGHT) not in (_UPRIGHT, 0)
        except Exception:  # a damaged block, which turns nothing
            turned = False
        deep = image.mode.startswith(("I", "F"))
        return None if turned or deep else _KEPT.get(image.format or "")


def _first(written: Written) -> str:
    if not written.left_out:
        return "there is none"
    return f"the first one, row {written.left_out[0].row}: {written.left_out[0].reason}"
