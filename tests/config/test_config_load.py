"""Loading: overrides, roundtrips, and errors that name file, line, field and mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcontrast.config import Config, config_schema, dump_config, load_config, load_suite
from mmcontrast.errors import ConfigError

MINIMAL: dict[str, Any] = {"data": {"train": {"path": "train.parquet"}}}


def problems(source: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value).splitlines()


def write(folder: Path, text: str, name: str = "my.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_file_values_defaults_and_output_from_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  train: {path: a.csv}\ntraining: {learning_rate: 1e-3, seed: 7}\n")
    config = load_config(path)
    assert config.training.learning_rate == 1e-3
    assert config.training.seed == 7
    assert config.training.global_batch_size == 256
    assert config.data.train.path == "a.csv"
    assert config.output == "runs/my"


def test_run_folder_stands_for_its_config(tmp_path: Path) -> None:
    config = load_config(MINIMAL, ["training.seed=5"])
    write(tmp_path, dump_config(config), "config.yaml")
    assert load_config(tmp_path) == config
    empty = tmp_path / "empty"
    empty.mkdir()
    assert problems(empty) == [f"{empty}: a folder without config.yaml; give a YAML file or a run folder"]


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("training.learning_rate=1e-4", lambda c: c.training.learning_rate == 1e-4),
        ("training.learning_rate=2", lambda c: c.training.learning_rate == 2.0),
        ("training.max_steps=null", lambda c: c.training.max_steps is None),
        ("training.max_steps=30", lambda c: c.training.max_steps == 30),
        ("data.caption_column=[en, de]", lambda c: c.data.caption_column == ["en", "de"]),
        ("data.validation.path=val.csv", lambda c: c.data.validation.path == "val.csv"),
        ("data.train={path: b.csv, rows: 3}", lambda c: (c.data.train.path, c.data.train.rows) == ("b.csv", 3)),
        ("model.image.kwargs.drop_path_rate=0.1", lambda c: c.model.image.kwargs == {"drop_path_rate": 0.1}),
        ("output=runs/a=b", lambda c: c.output == "runs/a=b"),
    ],
)
def test_overrides(override: str, read: Any) -> None:
    assert read(load_config(MINIMAL, [override]))


def test_later_overrides_win_and_the_source_stays() -> None:
    source = {"data": {"train": {"path": "x"}}}
    assert load_config(source, ["training.seed=1", "training.seed=2"]).training.seed == 2
    assert source == {"data": {"train": {"path": "x"}}}


def test_a_config_can_be_varied() -> None:
    config = load_config(MINIMAL)
    varied = load_config(config, ["training.loss=sigmoid"])
    assert (varied.model.logit_scale, varied.model.logit_bias) == (10.0, -10.0)
    assert (config.model.logit_scale, config.model.logit_bias) == (14.285714, None)


def test_all_problems_at_once_with_file_line_and_mend(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "data:\n"
        "  train: {path: x}\n"
        "  augmentation: lihgt\n"
        "  caption_column: [a, 2]\n"
        "model:\n"
        "  image:\n"
        "    nmae: resnet18\n"
        "training:\n"
        "  epochs: ten\n"
        "  batch_size: 3\n"
        "learning_rate: 1\n",
    )
    assert problems(path) == [
        f"{path}:7: model.image.nmae: unknown key; did you mean model.image.name?",
        f"{path}:4: data.caption_column.1: 2 must be text in quotes (Column or columns of the captions; null guesses "
        "them and says which; default null)",
        f"{path}:3: data.augmentation: 'lihgt' must be one of 'none', 'light', 'standard', 'strong' (How strongly "
        "training pictures are varied; default 'standard')",
        f"{path}:9: training.epochs: 'ten' must be a whole number (Passes over the training pairs, unless max_steps "
        "is given; default 10)",
        f"{path}:10: training.batch_size: unknown key; did you mean training.global_batch_size or "
        "training.micro_batch_size?",
        f"{path}:11: learning_rate: unknown key; did you mean training.learning_rate?",
    ]


def test_unknown_key_like_no_other_lists_the_known_ones() -> None:
    (line,) = problems({**MINIMAL, "negatives": {"cluster": {"zzz": 1}}})
    assert line == (
        "config: negatives.cluster.zzz: unknown key; known here: share, group, items_per_cluster, neighbours, "
        "correction, start, refresh_every_steps, max_probability"
    )


def test_missing_field_and_wrong_section(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  train:\n    split: x\nevaluation: 4\n")
    missing, section = problems(path)
    assert missing.startswith(f"{path}:2: data.train.path: is missing; add it (File, glob, folder")
    assert section.startswith(f"{path}:4: evaluation: 4 must be a section of keys")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainng.epochs=3", "--set trainng.epochs=3: trainng: unknown key; did you mean training?"),
        ("training.epoch=3", "--set training.epoch=3: training.epoch: unknown key; did you mean training.epochs?"),
        ("training.epochs", "--set training.epochs: not of the form a.b=value, such as training.epochs=3"),
        ("training..epochs=3", "--set training..epochs=3: not of the form a.b=value, such as training.epochs=3"),
        ("output=[a", "--set output=[a: the value is not valid YAML; put text with special characters in quotes"),
        (
            "data.train.path.x=3",
            "--set data.train.path.x=3: data.train.path is no section but 'train.parquet'; set it as a whole",
        ),
        (
            "training.seed=-1",
            "--set training.seed=-1: training.seed: -1 must be greater than or equal to 0 (Decides weights, order, "
            "captions and augmentation; default 0)",
        ),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    assert problems(MINIMAL, override) == [message]


def test_nothing_is_converted_silently() -> None:
    for override in ("training.epochs='3'", "training.epochs=1.5", "training.epochs=true", "data.streaming=1"):
        assert "must be" in problems(MINIMAL, override)[0]
    assert "must be a finite number" in problems(MINIMAL, "training.learning_rate=.inf")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [1\n", "my.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("data:\n\ttrain: x\n", "my.yaml:2: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: !!python/object/apply:os.getcwd []\n", "my.yaml:1: not valid YAML: could not determine a constructor"),
        ("- a\n- b\n", "my.yaml:1: a config is a mapping of keys such as `data:`, not ['a', 'b']"),
        ("a: &a [*a]\n", "my.yaml:1: not valid YAML: aliases that grow without end"),
        ("a: 2020-13-45\n", "my.yaml: not valid YAML: month must be in 1..12"),
        ("a: " + "[" * 600, "my.yaml: not valid YAML: nested too deeply"),
        ("? [a, b]\n: c\n", "my.yaml:1: not valid YAML: a key must be plain text"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    (line,) = problems(write(tmp_path, text))
    assert message in line


def test_aliases_are_allowed_but_not_bombs(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "data:\n  train: &t {path: x}\n  validation: *t\n"), ["data.train.path=y"])
    assert config.data.train.path == "y"
    assert config.data.validation
    assert config.data.validation.path == "x"
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
    (line,) = problems(write(tmp_path, "l0: &l0 [x]\n" + levels))
    assert line.endswith("aliases that grow without end")


def test_duplicate_key_names_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  train: {path: x}\ntraining:\n  epochs: 1\n  epochs: 2\n")
    assert problems(path) == [f"{path}:5: training.epochs: given twice, first at {path}:4; remove one"]


def test_unreadable_files(tmp_path: Path) -> None:
    assert problems(tmp_path / "no.yaml") == [f"{tmp_path}/no.yaml: no such file; give the path of a YAML config"]
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert problems(tmp_path / "x.yaml") == [f"{tmp_path}/x.yaml: not UTF-8 text; give the path of a YAML config"]


def test_contradictions_name_the_line_of_the_field(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  train: {path: x}\ntraining:\n  max_steps: 5\n  warmup_steps: 9\n")
    (line,) = problems(path)
    assert line.startswith(f"{path}:5: training.warmup_steps: 9 steps of warm-up do not fit")


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NASTY = st.sampled_from(["1e-3", "no", "null", "~", "<<", "=", "0x1f", "1:30", "2020-01-01", "- a", "a: b", "'", "#x"])
WORDS = NASTY | st.text(min_size=1)
FREE = st.dictionaries(WORDS, st.recursive(PLAIN | NASTY, lambda inner: st.lists(inner, max_size=3)), max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    path=WORDS,
    columns=st.none() | WORDS | st.lists(WORDS, min_size=1, max_size=3),
    kwargs=FREE,
    classnames=st.none() | st.dictionaries(WORDS, WORDS, max_size=3) | st.lists(WORDS, max_size=3),
    templates=st.lists(WORDS.map(lambda word: word + "{}"), min_size=1, max_size=3),
    rate=st.floats(min_value=1e-300, max_value=1e300),
    seed=st.integers(min_value=0),
    loss=st.sampled_from(["info_nce", "sigmoid"]),
    validation=st.none() | st.fixed_dictionaries({"path": WORDS}),
)
def test_dumped_config_loads_to_an_equal_one(
    tmp_path_factory: pytest.TempPathFactory,
    path: str,
    columns: Any,
    kwargs: Any,
    classnames: Any,
    templates: list[str],
    rate: float,
    seed: int,
    loss: str,
    validation: Any,
) -> None:
    config = load_config(
        {
            "output": path,
            "model": {"image": {"name": path, "kwargs": kwargs}},
            "data": {"train": {"path": path}, "validation": validation, "caption_column": columns},
            "training": {"learning_rate": rate, "seed": seed, "loss": loss},
            "evaluation": {"classnames": classnames, "templates": templates},
        }
    )
    text = dump_config(config)
    file = write(tmp_path_factory.getbasetemp(), text)
    assert load_config(file) == config
    assert load_config(yaml.safe_load(text)) == config  # other readers of RUN/config.yaml see the same


def test_schema_is_json_and_describes_every_field() -> None:
    schema = json.loads(json.dumps(config_schema()))
    assert schema["title"] == "Config"
    assert schema["additionalProperties"] is False
    sections = [schema, *schema["$defs"].values()]
    fields = [(section["title"], name, field) for section in sections for name, field in section["properties"].items()]
    assert [(title, name) for title, name, field in fields if not {"description", "$ref"} & field.keys()] == []
    assert len(fields) > 80


def test_config_cannot_be_changed_afterwards() -> None:
    config = load_config(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.training.seed = 3  # type: ignore[misc]
    assert isinstance(config, Config)


def test_suite(tmp_path: Path) -> None:
    good = "tasks:\n- {name: a, task: retrieval, data: x}\n- {name: b, task: zero_shot, data: y, label_column: l}\n"
    first, second = load_suite(write(tmp_path, good)).tasks
    assert (first.positives, second.label_column) == ("id", "l")
    path = write(tmp_path, "tasks:\n- {name: a, task: retrieval, data: x}\n- {name: b, tsak: retrieval, data: x}\n")
    with pytest.raises(ConfigError) as caught:
        load_suite(path)
    missing, unknown = str(caught.value).splitlines()
    assert missing == f"{path}:3: tasks.1.task: is missing; add it (What is measured)"
    assert unknown == f"{path}:3: tasks.1.tsak: unknown key; did you mean tasks.1.task?"
    with pytest.raises(ConfigError, match=r":3: tasks.1.name: 'a' is taken; rename one"):
        load_suite(write(tmp_path, good.replace("name: b", "name: a")))
