"""From YAML, a mapping or another config, and dotted overrides, to a checked `Config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from mmcontrast.config.document import Document, dump_yaml, parse, read_document
from mmcontrast.config.explain import explain
from mmcontrast.config.schema import Config
from mmcontrast.config.section import Section
from mmcontrast.errors import ConfigError

S = TypeVar("S", bound=Section)


def load_config(source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """A checked config.

    Args:
        source: YAML file, run folder (its config.yaml), mapping, or a config to vary. Without `output`, a file
            NAME.yaml takes runs/NAME. Relative paths in it start at the current directory, not at the file.
        overrides: "a.b=value" with the value in YAML: 3, 1e-3, null, [a, b], text.

    Raises:
        ConfigError: everything that is wrong, one line a problem: file and line, field, value, mend.
    """
    if isinstance(source, Config):
        # Only what was set, so that defaults which hang on other fields follow an override of those.
        document = Document("config", source.model_dump(exclude_unset=True))
    elif isinstance(source, Mapping):
        document = Document("config", _copy(source))
    else:
        document = _read_config(Path(source))
    return validate(Config, document, overrides)


def _read_config(path: Path) -> Document:
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"{path}: a folder without config.yaml; give a YAML file or a run folder")
        path = path / "config.yaml"
    document = read_document(path)
    document.values.setdefault("output", f"runs/{path.stem}")
    return document


def dump_config(config: Config) -> str:
    """YAML of every field, which loads to an equal config."""
    return dump_yaml(config.model_dump())


def validate(kind: type[S], document: Document, overrides: Sequence[str] = ()) -> S:
    """The document as a `kind`, after the overrides.

    Raises:
        ConfigError: all problems of writing, overrides and values, one a line.
    """
    for override in overrides:
        if problem := _override(document, override):
            document.problems.append(problem)
    result = None
    try:
        result = kind.model_validate(document.values)
    except ValidationError as error:
        document.problems += explain(kind, document, error)
    if result is None or document.problems:
        raise ConfigError("\n".join(document.problems))
    return result


def _override(document: Document, override: str) -> str | None:
    """Set one dotted key in the document; returns what is wrong with it."""
    dotted, equals, text = override.partition("=")
    path = tuple(dotted.strip().split("."))
    origin = f"--set {override}"
    if not equals or not all(path):
        return f"{origin}: not of the form a.b=value, such as training.epochs=3"
    try:
        value = parse(text, origin)
    except ConfigError:
        return f"{origin}: the value is not valid YAML; put text with special characters in quotes"
    if value.problems:
        return value.problems[0]
    section = document.values
    for length, key in enumerate(path[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
            document.origins[path[:length]] = origin
        section = section[key]
        if not isinstance(section, dict):
            return f"{origin}: {'.'.join(path[:length])} is no section but {section!r:.60}; set it as a whole"
    section[path[-1]] = value.values
    # What the file said below this key is gone, and with it the lines that said so.
    for below in [place for place in document.origins if place[: len(path)] == path]:
        del document.origins[below]
    document.origins[path] = origin
    return None


def _copy(value: Any) -> Any:
    """Plain dicts and lists all the way down, which overrides may change."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value
