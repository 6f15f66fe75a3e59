"""One model, written so that other libraries load it as their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from mmcontrast.errors import ModelError
from mmcontrast.export.checking import Agreement, Examples, check
from mmcontrast.export.marker import is_export, mark
from mmcontrast.export.onnx_int8 import measure_int8
from mmcontrast.models import DualEncoder
from mmcontrast.models.fingerprint import model_digest
from mmcontrast.models.lora import without_adapters

Format = Literal["transformers", "open_clip", "sentence_transformers", "onnx", "mmcontrast"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Exported:
    """What `export_model` wrote.

    Attributes:
        folder: where it lies.
        agreements: of each format, how far the library's own results are from ours; empty when not checked.
        left_out: of each format that cannot express this model, why; only where all formats were asked for.
    """

    folder: Path
    agreements: dict[Format, Agreement]
    left_out: dict[Format, str]


def export_model(
    model: DualEncoder,
    formats: Sequence[Format] | Literal["all"],
    folder: str | Path,
    *,
    examples: Examples | None = None,
    describe: Callable[[Path, Sequence[Format], Exported], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> Exported:
    """Write a model in one or several formats into one folder, which appears when all is written and checked.

    Args:
        model: on any device; it is not changed.
        formats: of `FORMATS`; "all" leaves out, and reports, those that cannot express the model.
        folder: new, empty, or of an earlier export, which is replaced.
        examples: pictures and captions to check with: each library loads the folder in a fresh, offline process,
            and its features and zero-shot scores are compared with ours. None leaves the check out.
        describe: writes the model card; told the folder, which is not in its place yet, the formats in it, and what
            is returned in the end.
        say: told what is being done.

    Raises:
        ModelError: a format cannot express these towers, a library is not installed or gives other numbers, or the
            folder holds something else.
    """
    folder = Path(folder).expanduser().absolute()
    refuse_foreign(folder)
    model = without_adapters(model)
    wanted = FORMATS if formats == "all" else tuple(dict.fromkeys(formats))
    if unknown := [name for name in wanted if name not in FORMATS]:
        raise ModelError(f"--format {unknown[0]} is not known; choose {', '.join(FORMATS)} or all")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        left_out: dict[Format, str] = {}
        for name in wanted:
            _tell(say, f"writing {name}")
            try:
                write(model, name, new)
            except ModelError as error:
                if formats != "all":
                    raise
                left_out[name] = str(error)
        if len(left_out) == len(wanted):
            raise ModelError("; ".join(left_out.values()))
        agreements: dict[Format, Agreement] = {}
        if examples is not None:
            for name in wanted:
                if name not in left_out:
                    _tell(say, f"checking {name}")
                    agreements[name] = check(model, name, new, examples)
            if "onnx" in agreements:
                _tell(say, f"onnx: {measure_int8(new / 'onnx', examples)}")
        written = [name for name in wanted if name not in left_out]
        exported = Exported(folder, agreements, left_out)
        if describe is not None:
            describe(new, written, exported)
        mark(new, written, model_digest(model))
        put_in_place(new, folder)
    return exported


def write(model: DualEncoder, name: Format, folder: Path) -> None:
    """Write one format into an existing folder; formats may share a folder."""
    import_module(f"mmcontrast.export.to_{name}").write(model, folder)


def refuse_foreign(folder: Path) -> None:
    """An error where `folder` is a file, or holds anything but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; an export needs a folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_export(folder):
        raise ModelError(f"{folder} holds other files than an export; choose a new or empty folder")


def put_in_place(new: Path, folder: Path) -> None:
    """Move a finished folder to its place; an earlier export there goes."""
    old = new.with_name("old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise


def _tell(say: Callable[[str], object] | None, line: str) -> None:
    if say is not None:
        say(line)
