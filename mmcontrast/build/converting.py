"""A data set in the layout of another tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmcontrast.build.jobs import left_out
from mmcontrast.data import PairSource, open_source
from mmcontrast.data.web_dataset import KINDS, TEMPLATES, Kind
from mmcontrast.data.web_dataset_writing import SHARD_ROWS, write_web_dataset
from mmcontrast.embedding import Advance
from mmcontrast.errors import DataError
from mmcontrast.evaluation.zero_shot import DEFAULT_TEMPLATES, load_classnames, load_templates


def to_webdataset(
    data: PairSource | str | Path,
    output: str | Path,
    kind: Kind | None = None,
    *,
    name: str = "test",
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    templates: Sequence[str] | str | Path | None = None,
    classnames: Sequence[str] | str | Path | None = None,
    shard_rows: int = SHARD_ROWS,
    progress: Advance | None = None,
    expect: Callable[[int], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Write a data set as WebDataset tars that CLIP_benchmark evaluates (`--dataset wds/NAME --dataset_root OUTPUT`).

    Args:
        data: anything that `open_source` opens, or an open source.
        output: a new or empty folder, or one with other splits of the same data set.
        kind: "retrieval", "classification" or "multilabel" (captions are the names of the picture's classes); None
            takes retrieval where there are captions.
        name: of the split that is written.
        split, image_column, caption_columns, label_column: as for `open_source`.
        templates: prompts with "{c}", or a file of them; None takes general ones.
        classnames: of all labels in their order, or a file of them; None takes the data's own.
        shard_rows: pictures of a tar at most.
        progress: told how many more pictures are done.
        expect: told how many there are.
        say: told what was left out or changed.

    Returns:
        A summary: kind, pictures, captions or classes, shards, encoded_anew, left_out.

    Raises:
        DataError: see `write_web_dataset`.
    """
    if kind is not None and kind not in KINDS:
        raise DataError(f"kind {kind!r} is unknown; choose of {', '.join(KINDS)}")
    templates = load_templates(templates) if isinstance(templates, str | Path) else templates
    classnames = load_classnames(classnames) if isinstance(classnames, str | Path) else classnames
    if kind == "classification" and caption_columns is None:
        caption_columns = ()  # a row without a caption is as good as any other here
    source = data
    if isinstance(source, str | Path):
        source = open_source(
            source,
            split=split,
            image_column=image_column,
            caption_columns=caption_columns,
            label_column=label_column,
        )
    if templates is None:  # those of an earlier split stay
        templates = () if (Path(output) / TEMPLATES).is_file() else DEFAULT_TEMPLATES
    if expect:
        expect(len(source))
    written = write_web_dataset(
        source,
        output,
        kind or ("retrieval" if source.columns.captions else "classification"),
        split=name,
        classnames=classnames,
        templates=templates,
        shard_rows=shard_rows,
        progress=progress,
    )
    if say:
        for line in left_out(source):
            say(line)
        if written.left_out:
            first = written.left_out[0]
            say(f"{len(written.left_out)} pictures are not written; the first is row {first.row}: {first.reason}")
        if written.encoded_anew:
            say(f"{written.encoded_anew} pictures became PNG: CLIP_benchmark would not read them as they are")
    counted = {"captions": written.captions} if written.kind == "retrieval" else {"classes": written.classes}
    return {"kind": written.kind, "pictures": written.pictures, **counted, "shards": written.shards} | {
        "encoded_anew": written.encoded_anew,
        "left_out": len(source.bad_rows) + len(written.left_out),
    }
