"""data.train as a list of sources: what it may say, and how mistakes in it are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcontrast.config import Config, MixedSourceConfig, check_against_data, dump_config, load_config
from mmcontrast.errors import ConfigError

TEXT = """\
data:
  train:
    - {path: "web/{000..099}.tar", weight: 3}
    - path: captions.parquet
      weight: 0.5
      caption_column: [title, text]
  streaming: true
training: {max_steps: 10, global_batch_size: 16}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text)
    return path


def load(folder: Path, text: str, *overrides: str) -> Config:
    return load_config(write(folder, text), overrides)


def test_a_list_of_sources(tmp_path: Path) -> None:
    config = load(tmp_path, TEXT)
    assert isinstance(config.data.train, list)
    assert [(source.path, source.weight) for source in config.data.train] == [
        ("web/{000..099}.tar", 3.0),
        ("captions.parquet", 0.5),
    ]
    assert config.data.train[1].caption_column == ["title", "text"]
    assert config.data.sources == config.data.train
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml", [f"output={config.output}"]) == config
    one = load(tmp_path, TEXT, "data.train={path: a.tar, rows: 3}")
    assert [(source.path, source.rows) for source in one.data.sources] == [("a.tar", 3)]
    assert not isinstance(one.data.sources[0], MixedSourceConfig)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight: 0.5", "weight: 0", ":5: data.train.1.weight: 0 must be greater than 0 (Share of the pairs that are"),
        ("weight: 0.5", "weight: -1", ":5: data.train.1.weight: -1 must be greater than 0 (Share"),
        ("weight: 0.5", "weight: .nan", ":5: data.train.1.weight: nan must be a finite number (Share"),
        ("weight: 0.5", "weight: much", ":5: data.train.1.weight: 'much' must be a number (Share"),
        ("weight: 0.5", "weigth: 1", ":5: data.train.1.weigth: unknown key; did you mean data.train.1.weight?"),
        ("path: captions.parquet", "split: x", ":4: data.train.1.path: is missing; add it (File, glob"),
        ("streaming: true", "streaming: false", ":2: data.train: is a list of sources, and they are mixed in a stream"),
        (
            "path: captions.parquet",
            'path: "web/{000..099}.tar"',
            ":4: data.train.1.path: 'web/{000..099}.tar' is that of data.train.0 as well",
        ),
        ("streaming: true", "streaming: true\n  stream_readers: 12", ":8: data.stream_readers: 12 does not divide"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, TEXT.replace(old, new))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'my.yaml'}{message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "data.train: [] must be a section of keys or a list that is not empty"),
        ("3", "data.train: 3 must be a section of keys or a list"),
        ("[a.tar]", "data.train.0: 'a.tar' must be a section of keys"),
        ("{path: a.tar, weight: 2}", "data.train.weight: unknown key; "),
    ],
)
def test_what_is_no_source(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, TEXT, f"data.train={value}")
    (line,) = str(caught.value).splitlines()
    assert f": {message}" in line


def test_readers_and_processes(tmp_path: Path) -> None:
    config = load(tmp_path, TEXT, "data.stream_readers=8")
    for processes in (1, 2, 4, 8):
        check_against_data(config, None, world_size=processes)
    with pytest.raises(ConfigError, match=r"data\.stream_readers: 8 cannot be shared evenly by 16 processes; take 16 "):
        check_against_data(config, None, world_size=16)
    with pytest.raises(ConfigError, match=r"data\.stream_readers: does nothing without data\.streaming"):
        load(tmp_path, "data: {train: {path: x}, stream_readers: 2}")
