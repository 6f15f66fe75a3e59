"""CSV, TSV and JSON lines: their rows as they stand, and map-style sources of them."""

from __future__ import annotations

import ast
import csv
import json
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mmcontrast.data.columns import Columns, Wanted, choose_columns, drop_coarse_group, prefer_label_text
from mmcontrast.data.map_source import RowSource, collect, no_rows
from mmcontrast.data.opening import read_errors
from mmcontrast.data.pictures import IMAGE_SUFFIXES, FilePictures, picture_name
from mmcontrast.data.rows import RawRow
from mmcontrast.data.tables import PROBLEM, SAMPLE_ROWS, as_wanted, raw_row
from mmcontrast.errors import DataError

_SEPARATORS = ",;\t|"
_LARGEST_FIELD = 2**31 - 1


def read_text_lines(file: str) -> Iterator[str]:
    """Lines of a UTF-8 file, with or without a byte order mark."""
    try:
        with read_errors(file), open(file, encoding="utf-8-sig", newline="") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start}): convert it") from None


def csv_header(file: str, wanted: Wanted, separator: str | None = None) -> tuple[list[str], str, bool]:
    """Names of the columns, the separator, and whether the first line is a header.

    The separator is the one of , ; tab | that splits the header into the wanted columns, else into most columns.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    line = next(read_text_lines(file), "").rstrip("\r\n")
    named = [wanted.image, *(wanted.captions or ()), wanted.label, wanted.group]
    best: list[str] = []
    for candidate in separator or _SEPARATORS:
        try:
            fields = [field.strip() for field in next(csv.reader([line], delimiter=candidate), [])]
        except csv.Error as error:
            raise DataError(f"{file}: its first line is not CSV: {error}") from None
        score = (sum(column in fields for column in named if column), len(fields))
        if not best or score > (sum(column in best for column in named if column), len(best)):
            best, found = fields, candidate
    first = picture_name(best[0]) if best else None
    if first is not None and Path(first).suffix.lower() in IMAGE_SUFFIXES:
        names = ["image", "caption", *(f"column_{number}" for number in range(3, len(best) + 1))]
        return names[: len(best)], found, False
    return best, found, True


def csv_records(file: str, header: Sequence[str], separator: str, has_header: bool) -> Iterator[dict[str, Any]]:
    """Records of a CSV file; a line with too many or too few fields says so under PROBLEM."""
    csv.field_size_limit(_LARGEST_FIELD)
    lines = read_text_lines(file)
    fields_of_lines = _tab_fields(lines) if separator == "\t" else _csv_fields(lines, separator)
    for fields in islice(fields_of_lines, int(has_header), None):
        if isinstance(fields, str):
            yield {PROBLEM: fields}
            continue
        record: dict[str, Any] = {
            column: _parse_list(field.strip()) for column, field in zip(header, fields, strict=False)
        }
        if len(fields) != len(header):
            record[PROBLEM] = (
                f"{len(fields)} fields where the header has {len(header)}: "
                f"captions with a {separator!r} in them must be quoted"
            )
        yield record


def _csv_fields(lines: Iterator[str], separator: str) -> Iterator[list[str] | str]:
    """Fields of each record, or what is wrong with it."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    start = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # A stray quote swallows lines up to the next one: name them all.
            yield f"lines {start} to {reader.line_num} are not CSV: {error}"
        else:
            if fields:
                yield fields
        start = reader.line_num + 1


def _tab_fields(lines: Iterator[str]) -> Iterator[list[str]]:
    """Fields of each line: quotes are often plain text in these files, so none reaches over a line's end."""
    for line in lines:
        if line.strip():
            quoted = line.count('"') % 2 == 0
            yield next(csv.reader([line], delimiter="\t")) if quoted else line.rstrip("\r\n").split("\t")


def _parse_list(field: str) -> Any:
    """A list of texts as pandas writes it into a CSV field, or the field itself."""
    if field[:2] in ("['", '["') and field.endswith("]"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a backslash in a caption is none of the user's mistakes
                return ast.literal_eval(field)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return field
    return field


def json_records(file: str) -> Iterator[dict[str, Any]]:
    """Records of a JSON lines file; a line that is no JSON object says so under PROBLEM.

    A file that ends in .json may also hold one list of records.
    """
    if file.endswith(".json"):
        try:
            whole = json.loads("".join(read_text_lines(file)))
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, list):
            for number, record in enumerate(whole, start=1):
                yield record if isinstance(record, dict) else {PROBLEM: f"record {number} is not a JSON object"}
            return
    for number, line in enumerate(read_text_lines(file), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            record = {PROBLEM: f"line {number} is not JSON: {error}"}
        except RecursionError:
            record = {PROBLEM: f"line {number} is not JSON that can be read: nested too deeply"}
        yield record if isinstance(record, dict) else {PROBLEM: f"line {number} is not a JSON object"}


def text_columns(file: str, kind: str, wanted: Wanted) -> tuple[Columns, list[str]]:
    """Columns in use of a CSV, TSV or JSON lines file, and all columns found."""
    note = ""
    if kind == "jsonl":
        sample = list(islice(json_records(file), 100))
        found = list(dict.fromkeys(key for record in sample for key in record if key != PROBLEM))
        if not found and sample:
            raise DataError(
                f"{file}: not JSON lines: {sample[0].get(PROBLEM, 'line 1 is an object without any field')}"
            )
    else:
        found, separator, _ = csv_header(file, wanted, "\t" if kind == "tsv" else None)
        if not found:
            raise no_rows(file, [])
        if len(found) == 1:
            note = f": is the separator another than {separator if kind == 'tsv' else ', ; tab |'!r}?"
    columns = prefer_label_text(choose_columns(found, wanted, file, note), found, has_names=False)
    if columns.group:
        sample = list(islice(text_records(file, kind, wanted), SAMPLE_ROWS))
        columns = drop_coarse_group(columns, [record.get(columns.group) or None for record in sample])
    return columns, found


def text_records(file: str, kind: str, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Records of a CSV, TSV or JSON lines file."""
    if kind == "jsonl":
        return json_records(file)
    return csv_records(file, *csv_header(file, wanted, "\t" if kind == "tsv" else None))


def text_rows(file: str, kind: str, columns: Columns) -> Iterator[RawRow]:
    """Rows of a CSV, TSV or JSON lines file."""
    for row, record in enumerate(text_records(file, kind, as_wanted(columns))):
        yield raw_row(record, columns, file, row)


def text_source(
    files: Sequence[str], kind: str, wanted: Wanted, rows: int | None, name: str, root: Path | None = None
) -> RowSource:
    """Map-style source of CSV, TSV or JSON lines files that name picture files.

    Args:
        root: folder that the names are relative to; by default the folder of each data file.
    """
    columns, _ = text_columns(files[0], kind, wanted)
    for file in files[1:]:
        text_columns(file, kind, as_wanted(columns))
    raw_rows = list(islice(chain.from_iterable(text_rows(file, kind, columns) for file in files), rows))
    if not raw_rows:
        raise no_rows(name, [])
    roots: Path | list[Path] = root or Path(files[0]).parent
    if root is None and len({Path(file).parent for file in files}) > 1:
        roots = [Path(raw.file).parent for raw in raw_rows]
    pictures = FilePictures(roots, [picture_name(raw.image) for raw in raw_rows])
    return collect(name, raw_rows, pictures, columns)
