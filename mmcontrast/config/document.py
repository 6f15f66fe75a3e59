"""YAML with the line of every key, so that errors can say where; and YAML that reads back as it was written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmcontrast.errors import ConfigError

# YAML 1.1 asks for a dot and a signed exponent and takes 1e-3 for text.
_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+"), list("-+0123456789"))
_MAX_NODES = 100_000
_MAX_CHARACTERS = 1_000_000
_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "timestamp")}

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Safe loader that reads 1e-3 as a number."""


class _Dumper(yaml.SafeDumper):
    """Safe dumper that puts text such as "1e-3" in quotes, since the loader would take it for a number."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Text; with rare line breaks in double quotes, since the other styles fold them into blanks."""
        style = '"' if re.search("[\\x85\\u2028\\u2029]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)
_Dumper.add_representer(str, _Dumper.represent_text)


def dump_yaml(values: Any) -> str:
    """YAML text of plain values, in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


@dataclass
class Document:
    """Plain values, where each came from, and what is wrong with their writing.

    Attributes:
        name: of the file, for messages.
        values: what it says.
        origins: path of a key to "FILE:LINE", or to the override that set it.
        problems: one line each.
    """

    name: str
    values: Any = None
    origins: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def origin(self, path: KeyPath) -> str:
        """Place of the key at `path`, or of the nearest section around it."""
        places = (self.origins.get(path[:length]) for length in range(len(path), 0, -1))
        return next(filter(None, places), self.name)


def read_document(path: Path) -> Document:
    """Read one YAML file by the safe loader.

    Raises:
        ConfigError: no such file, not text, not YAML, or not a mapping at the top.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML config") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; give the path of a YAML config") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a YAML config") from None
    document = parse(text, str(path))
    if document.values is None:
        document.values = {}
    if not isinstance(document.values, dict):
        raise ConfigError(f"{path}:1: a config is a mapping of keys such as `data:`, not {document.values!r:.60}")
    return document


def parse(text: str, name: str) -> Document:
    """Values and origins of one YAML document; duplicate keys become its problems.

    Raises:
        ConfigError: `text` is not YAML, or holds tags that the safe loader refuses.
    """
    document = Document(name)
    if len(text) > _MAX_CHARACTERS:
        raise ConfigError(f"{name}: over {_MAX_CHARACTERS} characters; this is no config")
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.values = _Reader(document, loader).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # Others than YAMLError: dates and numbers that cannot be, or words under tags that they do not fit.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{name}: not valid YAML: {reason}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return document


class _Reader:
    """Turns nodes into plain values; every visit builds fresh ones, so that aliases never share state."""

    def __init__(self, document: Document, loader: _Loader) -> None:
        self.document = document
        self.loader = loader
        self.nodes = 0
        self.open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Value of a node and, in the document, the origins of the keys inside it."""
        self.nodes += 1 if not isinstance(node, yaml.ScalarNode) else 1 + len(node.value) // 64
        if id(node) in self.open or self.nodes > _MAX_NODES:
            raise yaml.composer.ComposerError(None, None, "aliases that grow without end", node.start_mark)
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            value: Any = self.mapping(node, path)
        elif isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            value = []
            for position, item in enumerate(node.value):
                self.document.origins[*path, position] = self.place(item)
                value.append(self.value(item, (*path, position)))
        elif isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            value = self.loader.construct_object(node, deep=True)
            if isinstance(value, int):
                str(value)  # ValueError where it has thousands of digits, which no message could show
        else:
            problem = f"could not determine a constructor for the tag {node.tag!r}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        self.open.discard(id(node))
        return value

    def place(self, node: yaml.Node) -> str:
        """FILE:LINE of a node."""
        return f"{self.document.name}:{node.start_mark.line + 1}"

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Any]:
        """A mapping without duplicate keys."""
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.composer.ComposerError(None, None, "a key must be plain text", key_node.start_mark)
            key = self.loader.construct_object(key_node)
            place = self.place(key_node)
            if key in values:
                first = self.document.origins[*path, key]
                field = ".".join(map(str, (*path, key)))
                self.document.problems.append(f"{place}: {field}: given twice, first at {first}; remove one")
                continue
            self.document.origins[*path, key] = place
            values[key] = self.value(value_node, (*path, key))
        return values
