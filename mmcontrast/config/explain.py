"""Pydantic's errors as lines for people: where, which field, which value, and the mend."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mmcontrast.config.document import Document, KeyPath
from mmcontrast.config.section import Section

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a section of keys",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a section of keys",
    "string_too_short": "text that is not empty",
    "string_type": "text in quotes",
    "too_short": "a list that is not empty",
}


def explain(kind: type[Section], document: Document, error: ValidationError) -> list[str]:
    """One line a wrong field, in the order of the file's problems."""
    wrong: dict[KeyPath, list[ErrorDetails]] = {}
    lines = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "between_fields":
            problems = detail["ctx"]["problems"]
            lines += [_line(document, _key_path(field), message) for field, message in problems]
        else:
            wrong.setdefault(_real_path(detail, document.values), []).append(detail)
    # A list that should be text, or a list of text: the wrong item says more than the whole.
    wrong = {path: details for path, details in wrong.items() if not any(path == p[: len(path)] != p for p in wrong)}
    return lines + [_line(document, path, _message(kind, path, details)) for path, details in wrong.items()]


def _line(document: Document, path: KeyPath, message: str) -> str:
    return f"{document.origin(path)}: {'.'.join(map(str, path))}: {message}"


def _key_path(dotted: str) -> KeyPath:
    return tuple(int(key) if key.isdigit() else key for key in dotted.split("."))


def _real_path(detail: ErrorDetails, values: Any) -> KeyPath:
    """The error's place in the user's values, without the marks that pydantic adds for members of unions."""
    path: list[str | int] = []
    for key in detail["loc"]:
        inside = isinstance(values, list) and isinstance(key, int) and key < len(values)
        if inside or (isinstance(values, dict) and key in values):
            path.append(key)
            values = values[key]
    if detail["type"] == "missing":
        path.append(detail["loc"][-1])
    return tuple(path)


def _message(kind: type[Section], path: KeyPath, details: list[ErrorDetails]) -> str:
    first = details[0]
    if first["type"] == "extra_forbidden":
        return f"unknown key; {_nearest(kind, path)}"
    if first["type"] == "missing":
        return f"is missing; add it{_about(kind, path)}"
    wanted = dict.fromkeys(_wanted(detail) for detail in details)
    return f"{_shown(first['input'])} must be {' or '.join(wanted)}{_about(kind, path)}"


def _wanted(detail: ErrorDetails) -> str:
    if detail["type"] == "literal_error":
        return f"one of {detail['ctx']['expected']}".replace(" or ", ", ")
    return _WANTED.get(detail["type"], detail["msg"].removeprefix("Input should be "))


def _shown(value: Any) -> str:
    """A value as YAML would spell it, roughly, and not too long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _about(kind: type[Section], path: KeyPath) -> str:
    """What the field is for and, where it has one, its default: enough to mend it."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    section = section_at(kind, path[:-1])
    field = section.model_fields.get(str(path[-1])) if section and path else None
    if field is None or not field.description:
        return ""
    plain = not field.is_required() and not isinstance(field.default, Section)
    default = f"; default {_shown(field.default)}" if plain else ""
    return f" ({field.description.rstrip('.')}{default})"


def section_at(kind: type[Section], path: KeyPath) -> type[Section] | None:
    """Class of the section at a dotted path; list positions lead to the list's kind of section."""
    for place, key in enumerate(path):
        if isinstance(key, int):
            continue
        field = kind.model_fields.get(key)
        inner = list(_sections(field.annotation)) if field else []
        if not inner:
            return None
        # Where a field is a section or a list of another kind of section, the first is the single one.
        kind = inner[-1] if isinstance(next(iter(path[place + 1 :]), None), int) else inner[0]
    return kind


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """Sections in an annotation: itself, or inside `X | None` and `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _all_fields(kind: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield prefix + name
        for inner in _sections(field.annotation):
            yield from _all_fields(inner, f"{prefix}{name}.")


def _nearest(kind: type[Section], path: KeyPath) -> str:
    """The known key that was probably meant: in the same section, else anywhere, else the section's list."""
    *parents, key = map(str, path)
    section = section_at(kind, path[:-1]) or kind
    prefix = "".join(f"{parent}." for parent in parents)
    siblings = list(section.model_fields)
    longer = [name for name in siblings if name.endswith(f"_{key}")]  # batch_size: which of them?
    if close := longer or get_close_matches(key, siblings, n=1, cutoff=0.6):
        return f"did you mean {' or '.join(prefix + name for name in close)}?"
    by_name: dict[str, list[str]] = {}
    for dotted in _all_fields(kind):
        by_name.setdefault(dotted.rpartition(".")[2], []).append(dotted)
    if close := get_close_matches(key, by_name, n=1, cutoff=0.75):
        return f"did you mean {' or '.join(by_name[close[0]])}?"
    return f"known here: {', '.join(siblings)}"
