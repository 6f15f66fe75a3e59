"""Cards by the command line, and on the Hub, where their code names the repository."""

from __future__ import annotations

from pathlib import Path

from hub_clients import Pusher
from hub_server import running_hub
from huggingface_hub import ModelCard
from tiny_runs import CommandLines

from mmcontrast.export.card_usage import snippet
from mmcontrast.export.marker import mark


def test_by_command(tiny_run: Path, tmp_path: Path, mmcontrast_command: CommandLines) -> None:
    out = tmp_path / "out"
    words: list[str | Path] = ["export", tiny_run / "model", "--output", out, "--format", "mmcontrast", "--no-check"]
    words += ["--license", "cc-by-4.0", "--dataset", "owner/pairs=mit", "--dataset", "Photos", "--name", "mine"]
    words += [
        "--language",
        "en",
        "--language",
        "de",
        "--eval-dataset",
        "owner/pairs",
        "--no-pictures",
        "--watts",
        "100",
    ]
    done = mmcontrast_command(*words)
    assert done.code == 0, done.stderr
    data = ModelCard.load(out / "README.md").data
    assert (data.license, data.language, data.datasets) == ("cc-by-4.0", ["en", "de"], ["owner/pairs"])
    assert data.model_name == "mine"
    assert sorted(path.name for path in (out / ".eval_results").iterdir()) == ["retrieval.yaml", "zero_shot.yaml"]
    assert not (out / "assets").exists()
    text = (out / "README.md").read_text(encoding="utf-8")
    assert "assumed 100 W" in text
    assert "- Photos: licence not given" in text


def test_bad_answers_by_command(tiny_run: Path, tmp_path: Path, mmcontrast_command: CommandLines) -> None:
    done = mmcontrast_command("export", tiny_run / "model", "--output", tmp_path / "out", "--language", "german")
    assert done.code != 0
    assert "--language 'german' is no ISO 639 code" in done.error
    assert list(tmp_path.iterdir()) == []


def test_on_the_hub_the_code_names_the_repository(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    card = f"---\nlicense: mit\n---\n# card\n\n```python\n{snippet('open_clip')}```\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    mark(folder, ["open_clip"], "a" * 32)
    (tmp_path / "home").mkdir()
    with running_hub() as hub, Pusher(hub, tmp_path / "home") as push:
        first = push(folder, "org/name")
        there = hub.repos["org/name"].files()["README.md"].decode()
        assert there == card.replace("local-dir:.", "hf-hub:org/name")
        assert push(folder, "org/name")["commit"] == first["commit"]  # and is no change the next time
    assert (folder / "README.md").read_text(encoding="utf-8") == card
