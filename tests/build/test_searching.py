"""Searching by names of model and folder, and the commands for it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from searching_fakes import changed, paint, picture_folder, tiny_model
from typer.testing import CliRunner, Result

import mmcontrast
from mmcontrast import build
from mmcontrast.cli import app
from mmcontrast.errors import DataError, Interrupted
from mmcontrast.preprocess import decode_image

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMCONTRAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return picture_folder(tmp_path / "my pictures")


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def error(*words: str | Path) -> str:
    """The one line that a command ends with."""
    result = command(*words)
    assert result.exit_code in (1, 2), result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def test_from_python(model: Path, folder: Path, cache: Path) -> None:
    before = sorted(folder.rglob("*"))
    said: list[str] = []
    hits = mmcontrast.search(model, folder, "a red square", k=3, say=said.append)
    encoder = mmcontrast.DualEncoder.from_pretrained(model)
    scores = (
        encoder.encode_image([decode_image(hit.path) for hit in hits if hit.path])
        @ encoder.encode_text("a red square")[0]
    )
    assert [hit.score for hit in hits] == pytest.approx(scores.tolist(), abs=1e-5)
    assert said[0].startswith(f"index: 8 pictures embedded, 0 removed; kept in {cache / 'search' / 'my-pictures-'}")
    assert sorted(folder.rglob("*")) == before  # nothing is written among the pictures
    said.clear()
    again = mmcontrast.search(encoder, folder, folder / "00.png", k=1, say=said.append)
    assert (again[0].name, said) == ("00.png", [])


def test_each_model_and_folder_has_an_index_of_its_own(model: Path, folder: Path, tmp_path: Path) -> None:
    other = tiny_model(seed=1)
    said: list[str] = []
    for _ in range(2):
        for encoder in (model, other):
            hit = mmcontrast.search(encoder, folder, "red", k=1, index=tmp_path / "kept", say=said.append)[0]
            own = mmcontrast.DualEncoder.from_pretrained(encoder) if isinstance(encoder, Path) else encoder
            score = own.encode_image([decode_image(folder / hit.name)])[0] @ own.encode_text("red")[0]
            assert hit.score == pytest.approx(float(score), abs=1e-5)
    mmcontrast.search(model, picture_folder(tmp_path / "other" / "my pictures", 2), "red", index=tmp_path / "kept")
    assert len(said) == 2
    assert len(list((tmp_path / "kept").glob("my-pictures-*/*/pictures.safetensors"))) == 3


def test_ctrl_c_keeps_what_is_done(model: Path, folder: Path) -> None:
    done: list[int] = []

    def press(count: int) -> None:
        done.append(count)
        if sum(done) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="what is indexed is kept, the same command goes on") as caught:
        build.open_search(model, folder, batch_size=2, progress=press)
    assert caught.value.exit_code == 130
    expected: list[int] = []
    build.open_search(model, folder, batch_size=2, expect=expected.append)
    assert expected == [4]


def test_a_damaged_index(model: Path, folder: Path, tmp_path: Path) -> None:
    hits = mmcontrast.search(model, folder, "red", index=tmp_path / "kept")
    (file,) = (tmp_path / "kept").rglob("pictures.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    line = error("search", model, folder, "red", "--index", tmp_path / "kept")
    assert re.fullmatch(r".*pictures.safetensors: the index is damaged \(.*\): add --rebuild to make it anew", line)
    assert command("search", model, folder, "red", "--index", tmp_path / "kept", "--rebuild").exit_code == 0
    assert mmcontrast.search(model, folder, "red", index=tmp_path / "kept") == hits


def test_the_command(model: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "captions.csv").write_text("image,caption\n00.png,<b>a</b> [red]square\n")
    (folder / "broken.png").write_bytes(b"x")
    page, found = tmp_path / "out" / "found.html", tmp_path / "out" / "found.json"
    result = command("search", model, folder, "a red square", "--k", "20", "--output", page, "--json", found)
    assert result.exit_code == 0, result.output
    assert "8 pictures embedded" not in result.stdout
    assert "1 of 9 pictures cannot be used; the first is broken.png: not a picture in a known format" in result.stderr
    assert "there are 8 pictures only, not 20: all are shown" in result.stderr
    assert "<b>a</b> [red]square" in result.stdout
    values = json.loads(found.read_text())
    assert (values["pictures"], values["folder"]) == (8, str(folder))
    (answer,) = values["results"]
    assert (answer["query"], answer["kind"], len(answer["hits"])) == ("a red square", "text", 8)
    names = [hit["name"] for hit in answer["hits"]]
    assert re.findall(r"(?:below/)?\d\d\.png", result.stdout) == names
    text = page.read_text()
    assert text.count("data:image/jpeg") == 8
    assert "&lt;b&gt;a&lt;/b&gt; [red]square" in text
    assert "<b>a" not in text
    result = command("search", model, folder, folder / "03.png", "--k", "1", "--json", found)
    assert "index:" not in result.stderr
    (answer,) = json.loads(found.read_text())["results"]
    assert (answer["kind"], answer["hits"][0]["name"]) == ("picture", "03.png")


def test_names_cannot_command_the_terminal(model: Path, folder: Path, tmp_path: Path) -> None:
    names = ["a\x1b[2J\u202e.png", "new\nline [red]x[/].png", "half \udcff.png"]
    for number, name in enumerate(names):
        paint(folder / name, number + 9)
    page, found = tmp_path / "found.html", tmp_path / "found.json"
    result = command("search", model, folder, "red\x1b[2J", "--k", "20", "--output", page, "--json", found)
    assert result.exit_code == 0, result.output
    assert "\x1b[2J" not in result.output
    assert "a\\x1b[2J\\u202e.png" in result.stdout
    assert "[red]x[/].png" in result.stdout
    assert {hit["name"] for hit in json.loads(found.read_text())["results"][0]["hits"]} >= set(names)
    assert "\x1b" not in page.read_text()
    assert mmcontrast.search(model, folder, folder / names[1], k=1)[0].name == names[1]


def test_several_queries(model: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text(f"red\n\n{folder / '01.png'}\n")
    found = tmp_path / "found.json"
    result = command("search", model, folder, "--queries", tmp_path / "queries.txt", "--k", "99", "--json", found)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("all are shown") == 1
    kinds = [(answer["query"], answer["kind"]) for answer in json.loads(found.read_text())["results"]]
    assert kinds == [("red", "text"), (str(folder / "01.png"), "picture")]


def test_captions_can_be_searched(model: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "captions.csv").write_text("image,caption\n00.png,a red square\n01.png,the green bar\n")
    done: list[int] = []
    expected: list[int] = []
    hits = mmcontrast.search(
        model, folder, "the green bar", captions=True, progress=done.append, expect=expected.append
    )
    assert (sum(done), expected) == (10, [8, 10])
    assert (hits[0].name, hits[0].caption) == ("01.png", "the green bar")
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert len(hits) == 2
    line = error("search", model, picture_folder(tmp_path / "bare", 2), "red", "--captions")
    assert line.endswith("no captions to search: leave out --captions")


def test_a_table(model: Path, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("photo,says\nmy pictures/00.png,red\nmy pictures/01.png,green\n")
    result = command("search", model, table, "red", "--image-column", "photo", "--caption-column", "says", "--k", "2")
    assert result.exit_code == 0, result.output
    assert "green" in result.stdout


def test_wrong_usage(model: Path, folder: Path, tmp_path: Path) -> None:
    assert "the query is empty" in error("search", model, folder, "  ")
    assert "give one QUERY" in error("search", model, folder)
    assert "give one QUERY" in error("search", model, folder, "red", "--queries", "x.txt")
    assert "unexpected extra argument" in error("search", model, folder, "a", "red", "bus")
    assert "exclude each other" in error("search", model, folder, "red", "--text", "--image")
    assert "--k" in error("search", model, folder, "red", "--k", "0")
    assert "absent.jpg: no such picture; --text" in error("search", model, folder, "absent.jpg")
    assert "is a folder; name a file in it" in error("search", model, folder, "red", "--output", folder)
    (tmp_path / "empty").mkdir()
    assert "no data of a known format in this folder" in error("search", model, tmp_path / "empty", "red")
    (tmp_path / "empty" / "a.png").write_bytes(b"x")
    line = error("search", model, tmp_path / "empty", "red")
    assert line.endswith("none of its 1 pictures could be decoded; a.png: not a picture in a known format")
    assert "no such file or folder" in error("search", model, tmp_path / "absent" / "x", "red")


def test_a_changed_picture_is_found_as_it_is_now(model: Path, folder: Path) -> None:
    mmcontrast.search(model, folder, "red")
    changed(paint(folder / "00.png", 17))
    paint(folder / "new.png", 17)
    hits = mmcontrast.search(model, folder, folder / "new.png", k=2)
    assert [hit.name for hit in hits] == ["00.png", "new.png"]
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="k = 0"):
        mmcontrast.search(model, folder, "red", k=0)


def test_the_seed_of_nothing_is_touched(model: Path, folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    mmcontrast.search(model, folder, "red")
    assert torch.equal(torch.rand(2), expected)
