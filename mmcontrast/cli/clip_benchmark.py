"""Results as CLIP_benchmark's JSON files, beside our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmcontrast.cli.output import show_remark, write_json
from mmcontrast.errors import MMContrastError


def check_folder(folder: Path | None) -> None:
    """Before the work and not after it: whether it can be a folder."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise MMContrastError(f"--clip-benchmark-json: {folder} is a file; name a folder")


def write_clip_benchmark(
    folder: Path | None,
    task: str,
    metrics: Mapping[str, float | None],
    *,
    dataset: str,
    model: str,
    positives: str,
) -> None:
    """One result as a file that `clip_benchmark build` reads; says so where it measures no such thing."""
    if folder is None:
        return
    if task == "retrieval" and positives != "id":
        show_remark(f"{dataset}: CLIP_benchmark has no positives by {positives}: not in {folder}")
        return
    from mmcontrast.evaluation.clip_benchmark import file_name, record

    result = record(task, metrics, dataset=dataset, model=model)
    if result is None:
        show_remark(f"{dataset}: CLIP_benchmark has no {task}: not in {folder}")
    else:
        write_json(result, folder / file_name(result))


def short_name(data: str) -> str:
    """What to call the data of a path: its last two parts without suffix."""
    return "/".join(Path(data.rpartition("://")[2]).with_suffix("").parts[-2:])
