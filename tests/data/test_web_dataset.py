"""CLIP_benchmark's layout: written from any source, and read again."""

from __future__ import annotations

import io
from pathlib import Path

import filelock
import numpy as np
import pyarrow as pa
import pytest
from making_data import captions_of, encoded, picture, table, write_parquet, write_tar
from PIL import Image

from mmcontrast.data import open_source
from mmcontrast.data.web_dataset import label_vector, prompts_of
from mmcontrast.data.web_dataset_writing import Written, write_web_dataset
from mmcontrast.errors import DataError
from mmcontrast.preprocess import decode_image

TEMPLATES = ["a photo of a {}.", "{c}"]


def parquet(folder: Path, pictures: list[bytes], **columns: list[object]) -> Path:
    return write_parquet(folder / "data.parquet", pa.table({"image": pictures, **columns}))


def write(data: Path, output: Path, kind: str = "retrieval", **options: object) -> Written:
    captions = () if kind == "classification" else None
    return write_web_dataset(open_source(data, caption_columns=captions), output, kind, **options)  # type: ignore


def test_captions_and_bytes_come_back(tmp_path: Path) -> None:
    jpeg, webp = encoded(picture(6), "JPEG", quality=60), encoded(picture(7), "WEBP", quality=50)
    captions = [*map(captions_of, range(11)), ["two\nlines\u2028and more", "of the WebP"]]
    bytes_ = [*(encoded(picture(i)) for i in range(10)), jpeg, webp]
    steps: list[int] = []
    written = write(parquet(tmp_path, bytes_, captions=captions), tmp_path / "out", shard_rows=5, progress=steps.append)
    assert (written.pictures, written.captions, written.shards, written.encoded_anew) == (12, 24, 8, 0)
    assert sum(steps) == 12
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset_type.txt", "test"]
    assert (tmp_path / "out/test/nshards.txt").read_text() == "8\n"
    source = open_source(tmp_path / "out")
    assert [source.image(i) for i in range(12)] == bytes_
    assert [source.captions(i) for i in range(11)] == captions[:11]
    assert source.captions(11) == ["two lines and more", "of the WebP"]


def test_classes_prompts_and_a_second_split(tmp_path: Path) -> None:
    names = ["cat", "big  dog", "emu"]
    data = write_parquet(tmp_path / "data.parquet", table(9))
    assert write(data, tmp_path / "out", "classification", classnames=names, templates=TEMPLATES).classes == 3
    assert write(data, tmp_path / "out", "classification", classnames=names, split="train").shards == 8
    with pytest.raises(DataError, match=r"out: holds the splits test, train: name one"):
        open_source(tmp_path / "out")
    source = open_source(tmp_path / "out", split="train")
    assert [source.label(i) for i in range(9)] == [i % 3 for i in range(9)]
    assert source.label_names == ["cat", "big dog", "emu"]
    prompts = prompts_of(source)
    assert prompts.classnames == source.label_names
    assert prompts.templates == ["a photo of a {c}.", "{c}"]
    assert prompts_of(open_source(data)) == prompts_of(open_source("synthetic://scenes", rows=2))


def test_several_labels(tmp_path: Path) -> None:
    data = parquet(tmp_path, [encoded(picture(i)) for i in range(3)], captions=[["dog", "cat"], ["emu"], ["cat"]])
    assert write(data, tmp_path / "out", "multilabel", templates=TEMPLATES).classes == 3
    nobody = [("9.png", encoded(picture(9))), ("9.npy", label_vector([], 3))]
    vectors = {"8": np.zeros(4), "7": np.zeros((1, 3)), "6": np.array(["a"] * 3)}
    wrong = [item for key, vector in vectors.items() for item in ((f"{key}.png", b"x"), (f"{key}.npy", saved(vector)))]
    write_tar(tmp_path / "out/test/3.tar", [*nobody, *wrong, ("5.png", b"x"), ("4.png", b"x"), ("4.npy", b"broken")])
    (tmp_path / "out/test/nshards.txt").write_text("4")
    source = open_source(tmp_path / "out")
    assert [source.captions(i) for i in range(4)] == [["cat", "dog"], ["emu"], ["cat"], []]
    assert [row.reason for row in source.bad_rows] == [
        "the label vector has 4 numbers, classnames.txt has 3 names (key 8)",
        "the labels are no vector of numbers (key 7)",
        "the labels are no vector of numbers (key 6)",
        "no .npy of key 5",
        "the label vector cannot be read: ValueError (key 4)",
    ]
    (tmp_path / "out/classnames.txt").unlink()
    with pytest.raises(DataError, match=r"0.tar: its .npy labels need a classnames.txt"):
        open_source(tmp_path / "out")


def saved(vector: np.ndarray) -> bytes:  # type: ignore[type-arg]
    buffer = io.BytesIO()
    np.save(buffer, vector)
    return buffer.getvalue()


def test_what_clip_benchmark_would_see_otherwise_becomes_png(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.arange(0, 60000, 500, dtype=np.uint16).reshape(10, 12))
    bytes_ = [
        encoded(picture(0), "GIF"),
        encoded(picture(1), "JPEG", exif=turned),
        encoded(deep),
        encoded(picture(3).convert("P")),
    ]
    written = write(parquet(tmp_path, bytes_, caption=["a", "b", "c", "d"]), tmp_path / "out")
    assert written.encoded_anew == 3
    source = open_source(tmp_path / "out")
    for i, data in enumerate(bytes_):
        found = source.image(i)
        assert isinstance(found, bytes)
        with Image.open(io.BytesIO(found)) as image:  # as CLIP_benchmark opens it
            assert image.convert("RGB").tobytes() == decode_image(data).tobytes()
    assert source.image(3) == bytes_[3]


def test_what_cannot_be_used_is_left_out_and_leaves_no_gap(tmp_path: Path) -> None:
    bytes_ = [encoded(picture(0)), b"broken", encoded(picture(2))]
    written = write(
        parquet(tmp_path, bytes_, label=[0, 1, 5]), tmp_path / "out", "classification", classnames=["a", "b"]
    )
    assert (written.pictures, written.shards) == (1, 1)
    assert [(row.row, row.reason) for row in written.left_out] == [
        (1, "not a picture in a known format"),
        (2, "label 5 has no name: there are 2 class names"),
    ]
    assert (tmp_path / "out/test/0.tar").is_file()
    nothing = parquet(tmp_path, [b"broken"], caption=["x"])
    with pytest.raises(DataError, match=r"no picture can be written; the first one, row 0: not a picture"):
        write(nothing, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    data = write_parquet(tmp_path / "data.parquet")
    with pytest.raises(KeyboardInterrupt):
        write(data, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out/.test.part").mkdir(parents=True)  # what a killed process leaves
    write_tar(tmp_path / "out/.test.part/7.tar", [])
    with pytest.raises(DataError, match="no data of a known format"):
        open_source(tmp_path / "out")
    write(data, tmp_path / "out")
    assert len(open_source(tmp_path / "out")) == 6


def test_folders_of_others_stay_as_they_are(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data.parquet")
    out = tmp_path / "out"
    write(data, out)
    with pytest.raises(DataError, match=r"out/test is there already: remove it"):
        write(data, out)
    with pytest.raises(DataError, match=r"dataset_type.txt says something else"):
        write(data, out, "classification", classnames=["a", "b", "c"], split="train")
    with pytest.raises(DataError, match=r"holds other files \(data.parquet\)"):
        write(data, tmp_path)
    with pytest.raises(DataError, match=r"data.parquet is a file"):
        write(data, data)
    with pytest.raises(DataError, match=r"split '../x' can be no folder"):
        write(data, out, split="../x")
    with filelock.FileLock(out / ".lock"), pytest.raises(DataError, match="another process writes to"):
        write(data, out, split="train")
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == ["dataset_type.txt", "test"]


def test_data_that_do_not_fit_the_kind(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data.parquet")
    captions_only = parquet(tmp_path, [encoded(picture(0))], caption=["x"])
    with pytest.raises(DataError, match="classification needs a label column"):
        write(captions_only, tmp_path / "o", "classification")
    data = write_parquet(tmp_path / "data.parquet")
    with pytest.raises(DataError, match=r"its labels are numbers without names: list the names \(--classnames\)"):
        write(data, tmp_path / "o", "classification")
    with pytest.raises(DataError, match="class 1 has an empty name"):
        write(data, tmp_path / "o", "classification", classnames=["a", " ", "c"])
    for template in ("no place", "{c} {x}", "{c} }"):
        with pytest.raises(DataError, match=r"\{c\} must stand for the class name"):
            write(data, tmp_path / "o", "classification", classnames=["a", "b", "c"], templates=[template])
    with pytest.raises(DataError, match="retrieval needs captions"):
        write_web_dataset(open_source(data, caption_columns=()), tmp_path / "o", "retrieval")
    with pytest.raises(DataError, match=r"no picture can be written; .*'caption 0 first' is none of the 1 class names"):
        write(data, tmp_path / "o", "multilabel", classnames=["a"])
    assert not (tmp_path / "o").exists()


def test_a_missing_tar_is_told(tmp_path: Path) -> None:
    write(write_parquet(tmp_path / "data.parquet"), tmp_path / "out")
    (tmp_path / "out/test/2.tar").unlink()
    with pytest.raises(DataError, match=r"nshards.txt says '6', but there are 5 tars"):
        open_source(tmp_path / "out")
