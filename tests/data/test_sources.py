from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making_data import captions_of, pixels, table, tar_members, write_csv, write_parquet, write_pictures, write_tar

from mmcontrast.data import PairSource, open_source
from mmcontrast.data.sources import expand, locate
from mmcontrast.errors import DataError


def test_braces_and_globs(tmp_path: Path) -> None:
    for name in ("a-00.tar", "a-01.tar", "a-02.tar", "b.tar"):
        (tmp_path / name).touch()
    assert [Path(f).name for f in expand(f"{tmp_path}/a-{{00..01}}.tar")] == ["a-00.tar", "a-01.tar"]
    assert [Path(f).name for f in expand(f"{tmp_path}/{{b,a-02}}.tar")] == ["b.tar", "a-02.tar"]
    assert [Path(f).name for f in expand(f"{tmp_path}/a-*.tar")] == ["a-00.tar", "a-01.tar", "a-02.tar"]
    assert [Path(f).name for f in expand(f"{tmp_path}/{{8..10}}.tar")] == ["8.tar", "9.tar", "10.tar"]
    assert expand(f"{tmp_path}/none.tar") == []


@pytest.mark.parametrize(
    ("path", "format", "split", "message"),
    [
        ("none.parquet", None, None, r"none.parquet: no such file or folder"),
        ("./nowhere", None, None, "no such file or folder"),
        ("{tmp}/{{0..2}}.tar", None, None, r"no such file: .*0.tar"),
        ("s3://bucket/x.tar", None, None, r"files behind URLs are only streamed \(data.streaming: true\)"),
        ("{tmp}/a.csv", "excel", None, r"unknown format 'excel'; known: parquet, csv"),
        ("{tmp}/a.csv", None, "train", r"split 'train' has no meaning for single files"),
        ("{tmp}/b.xyz", None, None, "unknown or mixed file formats"),
        ("{tmp}/empty", None, None, "no data of a known format in this folder"),
        ("{tmp}/*.parquet", None, None, "no such file or folder"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, path: str, format: str, split: str, message: str) -> None:
    write_csv(tmp_path / "a.csv", [["image", "caption"], ["x.png", "x"]])
    (tmp_path / "b.xyz").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        locate(path.replace("{tmp}", str(tmp_path)).replace("{{", "{").replace("}}", "}"), format, split)


def test_splits_in_a_folder(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        write_parquet(tmp_path / f"{name}.parquet")
    assert len(open_source(tmp_path, split="train")) == 12
    assert len(open_source(tmp_path, split="val")) == 6
    with pytest.raises(DataError, match="holds the splits train, validation: name one"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no split 'test'; splits found: train, validation"):
        open_source(tmp_path, split="test")
    write_pictures(tmp_path / "pictures" / "train", 2)
    (tmp_path / "pictures" / "train" / "000.txt").write_text("one")
    assert len(open_source(tmp_path / "pictures", split="train")) == 1


def test_scenes_are_opened_by_name() -> None:
    source = open_source("synthetic://scenes", rows=3, seed=1)
    assert isinstance(source, PairSource)
    assert len(source) == 3
    assert source.captions(0)
    with pytest.raises(DataError, match="the only synthetic data set is"):
        open_source("synthetic://noise")


def test_all_formats_agree(tmp_path: Path) -> None:
    names = write_pictures(tmp_path)
    rows = [[name, caption] for i, name in enumerate(names) for caption in captions_of(i)]
    write_csv(tmp_path / "pairs.csv", [["image", "caption"], *rows])
    write_parquet(tmp_path / "pairs.parquet", table().drop_columns(["label"]))
    write_tar(tmp_path / "pairs.tar", tar_members(0, 6))
    for path in ("pairs.csv", "pairs.parquet", "pairs.tar"):
        source = open_source(tmp_path / path)
        assert isinstance(source, PairSource)
        assert len(source) == 6
        for i in range(6):
            assert source.captions(i) == captions_of(i)
            assert source.label(i) is None
            assert np.array_equal(pixels(source, i), pixels(open_source(tmp_path / "pairs.csv"), i))


def test_rows_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows = 0: at least 1"):
        open_source(write_parquet(tmp_path / "a.parquet"), rows=0)


@pytest.mark.parametrize(
    ("name", "size", "captions", "labels"),
    [
        ("cifar10", 3000, (), 10),
        ("emoji", 407, ("captions",), None),
        ("fashion_mnist", 5000, (), 10),
        ("flickr8k", 1000, ("captions",), None),
        ("ucm_captions", 210, ("captions",), 21),
    ],
)
def test_real_data(shared_data: Path, name: str, size: int, captions: tuple[str, ...], labels: int | None) -> None:
    source = open_source(shared_data / name / "val.parquet")
    assert len(source) == size
    assert source.bad_rows == []
    assert source.columns.captions == captions
    assert source.columns.group is None
    assert (len(source.label_names) if source.label_names else None) == labels
    assert pixels(source, size - 1).shape[2] == 3
    assert bool(source.captions(size - 1)) == bool(captions)
    if labels:
        by_text = open_source(shared_data / name / "val.parquet", label_column="label_name")
        assert source.label_names is not None
        assert by_text.label_names == sorted(source.label_names)
        number = by_text.label(7)
        assert number is not None
        assert by_text.label_names[number] == source.label_names[source.label(7) or 0]
