"""YAML that is made to do harm: refused in one line, soon, and in little memory."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcontrast.config import Config, dump_config, load_config, load_suite
from mmcontrast.config.document import dump_yaml, parse
from mmcontrast.errors import ConfigError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
LONG = f"a: &a {'x' * 900_000}\nb: [{', '.join(['*a'] * 10_000)}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system\n", "could not determine a constructor for the tag"),
        ("a: !!omap [a: 1]\n", "could not determine a constructor for the tag"),
        ("a: !!set {a, b}\n", "could not determine a constructor for the tag"),
        ("a: !!binary aGk=\n", "could not determine a constructor for the tag"),
        ("a: !!pairs [a: 1]\n", "could not determine a constructor for the tag"),
        ("!!python/object:x {}\n", "could not determine a constructor for the tag"),
        ("a: !local x\n", "could not determine a constructor for the tag"),
        ("a: !!int ''\n", "not valid YAML"),
        ("a: !!int x\n", "not valid YAML"),
        ("a: !!float ''\n", "not valid YAML"),
        ("a: !!bool x\n", "not valid YAML"),
        ("a: !!timestamp x\n", "not valid YAML"),
        ("a: 2001-99-99\n", "not valid YAML"),
        ("a: 0x" + "f" * 5000 + "\n", "not valid YAML"),
        ("a: " + "9" * 5000 + "\n", "not valid YAML"),
        ("<<: *a\n", "not valid YAML"),
        ("? [a]\n: 1\n", "a key must be plain text"),
        ("a: \x00\n", "not valid YAML"),
        ("a: \x1b[2J\n", "not valid YAML"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "{a: " * 5000, "nested too deeply"),
        ("&a [*a]\n", "aliases that grow without end"),
        (LAUGHS, "aliases that grow without end"),
        (LONG, "aliases that grow without end"),
        ("a: " + "x" * 1_000_001, "over 1000000 characters"),
        ("--- 1\n--- 2\n", "not valid YAML"),
    ],
    ids=lambda value: value[:30],
)
def test_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    start = time.process_time()
    for load in (load_config, load_suite):
        with pytest.raises(ConfigError, match=rf"my.yaml[^\n]*{message}") as caught:
            load(tmp_path / "my.yaml")
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 1000
    assert time.process_time() - start < 20


def test_an_endless_file_is_not_read_to_its_end() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero here")
    with pytest.raises(ConfigError, match="/dev/zero: over 1000000 characters"):
        load_config("/dev/zero")


@pytest.mark.parametrize(
    "override", ["a=" + "[" * 50_000, "training.epochs=0x" + "f" * 5000, "x" * 100_000, "a=&a [*a]"]
)
def test_overrides(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config({"output": "x", "data": {"train": {"path": "x"}}}, [override])


KEYS = ["data", "train", "path", "training", "epochs", "learning_rate", "model", "image", "text", "kwargs", "output"]
KEYS += ["evaluation", "classnames", "negatives", "rule", "cluster", "seed", "loss", "lora", "tokenizer", "odd"]
SCALARS = st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["synthetic://scenes", "info_nce", 1, 0, 0.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_mapping_is_a_config_or_told_line_by_line(values: dict[str, Any]) -> None:
    try:
        config = load_config(values)
    except ConfigError as error:
        lines = str(error).split("\n")
        assert all(": " in line and len(line) < 2000 for line in lines)
    else:
        assert isinstance(config, Config)
        assert load_config(yaml.safe_load(dump_config(config))) == config


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="a:-[]{}&*!?|>'\"#%@ \n\t1", max_size=40))
def test_any_text_is_yaml_or_one_line(text: str) -> None:
    message = "x.yaml: read"
    try:
        parse(text, "x.yaml")
    except ConfigError as error:
        message = str(error)
    assert re.fullmatch(r"x\.yaml:[^\n]*", message)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=6), VALUES.filter(lambda value: value == value), max_size=4))
def test_what_is_written_reads_back(values: dict[str, Any]) -> None:
    def same(one: Any, other: Any) -> bool:
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, list):
            return len(one) == len(other) and all(map(same, one, other))
        return type(one) is type(other) and (one == other or one != one)

    assert same(values, parse(dump_yaml(values), "x").values)
