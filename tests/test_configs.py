"""Every shipped config loads, is short, and says on line 1 how it is run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mmcontrast.config import load_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_the_promised_configs_are_there() -> None:
    names = {path.stem for path in CONFIGS}
    assert names >= {"quickstart", "flickr8k", "ucm_captions", "emoji_multilingual"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30
    assert lines[0].startswith("# mmcontrast train ")
    words = shlex.split(lines[0].removeprefix("# "))
    assert words[2] == path.relative_to(ROOT).as_posix()

    config = load_config(path)
    assert config.output == f"runs/{path.stem}"
    assert "--output" not in words or words[words.index("--output") + 1] == config.output
    assert config.data.validation is not None
    for source in (*config.data.sources, config.data.validation):
        assert source.path.startswith(("../shared/data/", "synthetic://"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_data_and_columns_exist(path: Path, shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    data = load_config(path).data
    named = [data.caption_column] if isinstance(data.caption_column, str) else data.caption_column or []
    columns = {*named, data.image_column, data.label_column, data.group_column} - {None}
    for source in filter(None, (*data.sources, data.validation)):
        if source.path.startswith("../shared/data/"):
            file = shared_data / source.path.removeprefix("../shared/data/")
            assert columns <= set(parquet.read_schema(file).names)
