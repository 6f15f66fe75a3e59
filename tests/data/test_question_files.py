from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mmcontrast
from mmcontrast.data.question_files import open_questions
from mmcontrast.errors import DataError, MMContrastError

pytestmark = pytest.mark.usefixtures("one_thread")
SUGAR = [
    {"filename": "a.png", "caption": "a red square", "negative_caption": "a blue square"},
    {"filename": "b.png", "caption": "a blue square", "negative_caption": "a red square"},
    {"filename": "a.png", "caption": "red", "negative_caption": "green"},
]
GROUND = [{"id": 7, "image_0": "a", "image_1": "c", "caption_0": "red on blue", "caption_1": "blue on red", "tag": "x"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("images/c.png", "green")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    return tmp_path


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("value", [SUGAR, {str(number): entry for number, entry in enumerate(SUGAR)}])
def test_sugar_crepe(folder: Path, value: Any) -> None:
    source = open_questions(write(folder / "swap_obj.json", value))
    assert source is not None
    assert source.columns.captions == ("caption", "negative_caption")
    assert [source.captions(i) for i in range(len(source))] == [
        ["a red square", "a blue square", "red", "green"],  # one picture, two questions
        ["a blue square", "a red square"],
    ]
    assert source.image(1) == folder / "b.png"


@pytest.mark.parametrize("lines", [True, False])
def test_winoground(folder: Path, lines: bool) -> None:
    path = folder / ("examples.jsonl" if lines else "examples.json")
    path.write_text(json.dumps(GROUND[0]) + "\n" if lines else json.dumps(GROUND))
    source = open_questions(str(path))
    assert source is not None
    assert [source.captions(i) for i in range(2)] == [["red on blue"], ["blue on red"]]
    assert [source.image(i) for i in range(2)] == [folder / "a.png", folder / "images/c.png"]
    assert [source.group(i) for i in range(2)] == ["0", "0"]


def test_other_files_are_none(folder: Path) -> None:
    for value in ([{"image": "a.png", "caption": "x"}], {"a": 1}, [1], [], "negative_caption", [{"caption_1": "x"}]):
        assert open_questions(write(folder / "other.json", value)) is None
    (folder / "other.json").write_text('{"negative_caption"')
    assert open_questions(folder / "other.json") is None
    assert open_questions(folder / "absent.json") is None
    assert open_questions(folder / "table.csv") is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([SUGAR[0], {**SUGAR[1], "negative_caption": " "}], "entry 1: negative_caption is missing or empty"),
        ([SUGAR[0], {"filename": "b.png"}], "entry 1: caption is missing or empty"),
        ([SUGAR[0], 3], "entry 1: filename is missing or empty"),
        ([{**GROUND[0], "caption_0": ""}], "entry 0: caption_0 is missing or empty"),
    ],
)
def test_broken_entries(folder: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_questions(write(folder / "q.json", value))


def test_absent_pictures(folder: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.png"):
        open_questions(write(folder / "q.json", [{**SUGAR[0], "filename": "nowhere.png"}]))
    source = open_questions(write(folder / "q.json", [*SUGAR, {**SUGAR[0], "filename": "nowhere.png"}]))
    assert source is not None
    assert len(source.bad_rows) == 1


def test_evaluated(tiny_run: Path, folder: Path) -> None:
    sugar, ground = write(folder / "s.json", SUGAR), write(folder / "w.json", GROUND)
    found = mmcontrast.evaluate(tiny_run / "model", sugar, "caption_selection")["caption_selection"]
    assert found["text_acc"] in (0, 1 / 3, 2 / 3, 1)
    scores = mmcontrast.evaluate(tiny_run / "model", ground, "winoground")["winoground"]
    assert set(scores) == {"text_score", "image_score", "group_score"}
    with pytest.raises(MMContrastError, match="winoground needs a group column"):
        mmcontrast.evaluate(tiny_run / "model", sugar, "winoground")
