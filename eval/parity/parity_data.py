"""The data of the comparison: rows of the shared sets, as CLIP_benchmark, SugarCrepe and Winoground lay them out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from open_clip.tokenizer import basic_clean
from PIL import Image

from mmcontrast import build
from mmcontrast.evaluation.hard_captions import hard_captions

TEMPLATES = ("a photo of a {c}.", "a blurry picture of the {c}", "{c}")
SIDE = 32
"""Of a picture of CIFAR-10; four of them make one of the toy with several labels."""


@dataclass(frozen=True)
class Task:
    """One comparison.

    Attributes:
        name: of the data set, and of its folder.
        ours, theirs: names of the task; theirs is "winoground" where its command line cannot read the data.
        data: what we evaluate.
        why: why the numbers may differ, where that is known beforehand.
        rewritten: whether open_clip's tokenizer changes some of the captions, so that they must differ.
    """

    name: str
    ours: str
    theirs: str
    data: Path
    why: str = ""
    rewritten: bool = False


def write_all(shared: Path, folder: Path, rows: int) -> list[Task]:
    """Every data set with so many rows at most."""
    makers: list[Callable[[Path, Path, int], Task]] = [
        _cifar10, _ucm_classes, _emoji_classes, _several_labels, _flickr8k, _ucm, _ucm_distinct, _emoji, _emoji_plain,
        _sugar_crepe, _winoground,
    ]  # fmt: skip
    return [make(shared, folder, rows) for make in makers]


def rows_of(file: Path, rows: int, **equal: str) -> list[dict[str, Any]]:
    """The first rows whose columns have these values."""
    found: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return [row for row in found if all(row[name] == value for name, value in equal.items())][:rows]


def _table(
    rows: Sequence[dict[str, Any]], captions: Sequence[list[str]] | None = None, **columns: list[Any]
) -> pa.Table:
    values: dict[str, Any] = {"image": [row["image"]["bytes"] for row in rows], **columns}
    return pa.table(values if captions is None else {**values, "captions": list(captions)})


def _classes(name: str, rows: Sequence[dict[str, Any]], label: str, folder: Path) -> Task:
    pq.write_table(_table(rows, label=[row[label] for row in rows]), folder / f"{name}.parquet")
    build.to_webdataset(folder / f"{name}.parquet", folder / name, "classification", templates=TEMPLATES)
    return Task(name, "zero_shot", "zeroshot_classification", folder / name)


def _captions(
    name: str, rows: Sequence[dict[str, Any]], captions: Sequence[list[str]], folder: Path, why: str = ""
) -> Task:
    pq.write_table(_table(rows, captions), folder / f"{name}.parquet")
    build.to_webdataset(folder / f"{name}.parquet", folder / name, "retrieval")
    return Task(name, "retrieval", "zeroshot_retrieval", folder / name, why)


def _cifar10(shared: Path, folder: Path, rows: int) -> Task:
    return _classes("cifar10", rows_of(shared / "cifar10" / "val.parquet", rows), "label_name", folder)


def _ucm_classes(shared: Path, folder: Path, rows: int) -> Task:
    return _classes("ucm_classes", rows_of(shared / "ucm_captions" / "val.parquet", rows), "label_name", folder)


def _emoji_classes(shared: Path, folder: Path, rows: int) -> Task:
    return _classes("emoji_classes", rows_of(shared / "emoji" / "val.parquet", rows), "subgroup", folder)


def _several_labels(shared: Path, folder: Path, rows: int) -> Task:
    """Four pictures of CIFAR-10 in one, with all their labels."""
    found = rows_of(shared / "cifar10" / "val.parquet", 4 * rows)
    fours = [found[start : start + 4] for start in range(0, len(found) - 3, 4)]
    pictures = []
    for four in fours:
        whole, buffer = Image.new("RGB", (2 * SIDE, 2 * SIDE)), io.BytesIO()
        for place, row in enumerate(four):
            whole.paste(Image.open(io.BytesIO(row["image"]["bytes"])), (place % 2 * SIDE, place // 2 * SIDE))
        whole.save(buffer, "PNG")
        pictures.append({"image": {"bytes": buffer.getvalue()}})
    labels = [sorted({row["label_name"] for row in four}) for four in fours]
    pq.write_table(_table(pictures, labels), folder / "several_labels.parquet")
    build.to_webdataset(folder / "several_labels.parquet", folder / "several_labels", "multilabel", templates=TEMPLATES)
    return Task("several_labels", "multi_label", "zeroshot_classification", folder / "several_labels")


def _flickr8k(shared: Path, folder: Path, rows: int) -> Task:
    found = rows_of(shared / "flickr8k" / "val.parquet", rows)
    return _captions("flickr8k", found, [row["captions"] for row in found], folder)


def _ucm(shared: Path, folder: Path, rows: int) -> Task:
    found = rows_of(shared / "ucm_captions" / "val.parquet", rows)
    why = "many captions stand with several pictures: their scores are equal, and which comes first is chance there"
    return _captions("ucm_captions", found, [row["captions"] for row in found], folder, why)


def _ucm_distinct(shared: Path, folder: Path, rows: int) -> Task:
    """Only the captions that stand with a single picture."""
    found = rows_of(shared / "ucm_captions" / "val.parquet", rows)
    owners: dict[str, set[int]] = {}
    for place, row in enumerate(found):
        for caption in row["captions"]:
            owners.setdefault(" ".join(caption.lower().split()), set()).add(place)
    own = [
        list(dict.fromkeys(text for text in row["captions"] if len(owners[" ".join(text.lower().split())]) == 1))
        for row in found
    ]
    kept = [place for place, captions in enumerate(own) if captions]
    return _captions("ucm_distinct", [found[place] for place in kept], [own[place] for place in kept], folder)


def _emoji(shared: Path, folder: Path, rows: int) -> Task:
    """One vendor, whose names are all different."""
    found = rows_of(shared / "emoji" / "train.parquet", rows, vendor="noto")
    captions = [row["captions"][:1] for row in found]
    why = "open_clip's tokenizer makes curly quotes straight before it looks at a caption, ours takes it as it is"
    rewritten = any(basic_clean(text) != text for own in captions for text in own)
    return replace(_captions("emoji", found, captions, folder, why), rewritten=rewritten)


def _emoji_plain(shared: Path, folder: Path, rows: int) -> Task:
    """The same with captions that open_clip's tokenizer has nothing to change in."""
    found = rows_of(shared / "emoji" / "train.parquet", rows, vendor="noto")
    captions = [[basic_clean(text) for text in row["captions"][:1]] for row in found]
    return _captions("emoji_plain", found, captions, folder)


def _sugar_crepe(shared: Path, folder: Path, rows: int) -> Task:
    """A wrong caption for each picture that one can be made for."""
    found = rows_of(shared / "flickr8k" / "val.parquet", rows)
    captions = [row["captions"][0] for row in found]
    wrong = {hard.place: hard.text for hard in hard_captions(captions, list(range(len(found))), seed=0)}
    pictures = folder / "sugar_crepe" / "val2017"
    pictures.mkdir(parents=True)
    for place in wrong:
        (pictures / f"{place}.jpg").write_bytes(found[place]["image"]["bytes"])
    entries = {
        str(place): {"filename": f"{place}.jpg", "caption": captions[place], "negative_caption": text}
        for place, text in sorted(wrong.items())
    }
    (pictures.parent / "swap_obj.json").write_text(json.dumps(entries))  # where CLIP_benchmark looks for it
    (pictures / "questions.json").write_text(json.dumps(entries))
    return Task("sugar_crepe", "caption_selection", "image_caption_selection", pictures / "questions.json")


def _winoground(shared: Path, folder: Path, rows: int) -> Task:
    """Neighbouring pictures with a caption each."""
    found = rows_of(shared / "flickr8k" / "val.parquet", rows // 2 * 2)
    pictures = folder / "winoground" / "images"
    pictures.mkdir(parents=True)
    for place, row in enumerate(found):
        (pictures / f"{place}.jpg").write_bytes(row["image"]["bytes"])
    entries = [
        {f"image_{side}": f"{place + side}.jpg" for side in (0, 1)}
        | {f"caption_{side}": found[place + side]["captions"][0] for side in (0, 1)}
        for place in range(0, len(found), 2)
    ]
    file = pictures.parent / "questions.json"
    file.write_text(json.dumps(entries))
    return Task("winoground", "winoground", "winoground", file)
