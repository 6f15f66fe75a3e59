"""Pushing over real HTTP to a small Hub, with everything that can go wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_clients import Pusher
from hub_server import READ_ONLY, TOKEN, Fault, Hub, Kind, running_hub

from mmcontrast.export.marker import MARKER, mark

REPO = "org/name"
WEIGHTS = bytes(range(256)) * 8000
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# card\n",
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "onnx/text.onnx": b"onnx" * 100,
}
COMMIT, LFS = r"/commit/main$", r"^/lfs/"


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


@pytest.fixture(scope="module")
def push(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pusher]:
    with Pusher(server, tmp_path_factory.mktemp("home")) as pusher:
        yield pusher


@pytest.fixture
def hub(server: Hub) -> Hub:
    server.forget()
    return server


def export(folder: Path, files: dict[str, bytes], model: str = "a" * 32) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    mark(folder, ["mmcontrast"], model)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export(tmp_path / "export", FILES)


def holds(hub: Hub, files: dict[str, bytes] = FILES, branch: str = "main") -> bool:
    there = hub.repos[REPO].files(branch)
    return {path: data for path, data in there.items() if path not in (MARKER, ".gitattributes")} == files


def test_create_upload_and_upload_again(hub: Hub, push: Pusher, folder: Path) -> None:
    dry = push(folder, REPO, token=None, dry_run=True)
    assert (dry["commit"], dry["creates"]) == (None, "repository")
    assert any(line.split() == ["new", "2.0", "MB", "model.safetensors"] for line in dry["lines"])
    assert dry["said"] == ["without a token a private org/name is not seen, should there be one"]
    assert hub.writes() == []

    first = push(folder, REPO, private=True)
    assert first["creates"] == "repository"
    repo = hub.repos[REPO]
    assert repo.private
    assert holds(hub)
    assert len(repo.commits) == 2  # the Hub's own, and one
    assert first["commit"] == repo.branches["main"]
    assert hub.count("PUT /lfs") == 2

    assert push(folder, REPO)["commit"] == first["commit"]
    assert hub.count(COMMIT) == 1  # there was nothing to do

    (folder / "config.json").write_bytes(b"[]")
    (folder / "onnx" / "text.onnx").unlink()
    dry = push(folder, REPO, dry_run=True)
    assert dry["lines"][-1].endswith("2 unchanged, 1 to delete")
    assert holds(hub)
    second = push(folder, REPO)
    assert holds(hub, {"README.md": FILES["README.md"], "config.json": b"[]", "model.safetensors": WEIGHTS})
    assert second["commit"] != first["commit"]
    assert hub.count("PUT /lfs") == 2


def test_another_model_and_a_card_of_the_user(hub: Hub, push: Pusher, folder: Path, tmp_path: Path) -> None:
    push(folder, REPO)
    other = export(tmp_path / "other", {"config.json": b"other", "README.md": b"generated"}, "b" * 32)
    refused = push(other, REPO)
    assert refused["error"].startswith("org/name holds another model (aaaaaaaa, and this is bbbbbbbb)")
    assert holds(hub)
    main = hub.repos[REPO].branches["main"]

    assert push(other, REPO, revision="v2")["creates"] == "branch"
    assert holds(hub, {"config.json": b"other", "README.md": b"generated"}, "v2")
    assert hub.repos[REPO].branches["main"] == main

    assert "error" not in push(other, REPO, overwrite=True)
    assert holds(hub, {"config.json": b"other", "README.md": b"generated"})

    hub.repos[REPO].commit("main", {**hub.repos[REPO].files(), "README.md": b"by hand", "note.md": b"mine"})
    (other / "config.json").write_bytes(b"newer")
    assert any("README.md on the Hub was not written by an export: it is kept" in x for x in push(other, REPO)["lines"])
    assert holds(hub, {"config.json": b"newer", "README.md": b"by hand", "note.md": b"mine"})


def test_what_is_refused_before_anything_is_written(hub: Hub, push: Pusher, folder: Path) -> None:
    hub.make("org/foreign", {"pytorch_model.bin": b"1"})
    hub.make("org/public")
    for repo, options, message in [
        ("org/foreign", {}, "org/foreign holds files of somebody else (pytorch_model.bin): --overwrite replaces them"),
        ("org/public", {"private": True}, "org/public is public already: make it private in its settings"),
        ("name", {}, "name: name the repository with its owner, as ORGANISATION/NAME"),
        ("org/na me", {}, "org/na me is no name of a repository"),
        (REPO, {"token": None}, "no token for the Hub: log in with hf auth login, or set HF_TOKEN"),
        (REPO, {"token": "hf_wrongwrongwrong"}, "org/name: the Hub does not accept the token (401)"),
        (REPO, {"token": READ_ONLY}, "org/name: the token may not write there (403)"),
    ]:
        assert push(folder, repo, **options)["error"].startswith(message)  # type: ignore[arg-type]
    assert REPO not in hub.repos
    assert all(len(repo.commits) == 1 for repo in hub.repos.values())


@pytest.mark.parametrize(
    ("method", "path", "kind", "times"),
    [
        ("POST", COMMIT, 500, 2),
        ("POST", COMMIT, "hang", 1),
        ("POST", COMMIT, "cut", 1),
        ("POST", COMMIT, "unheard", 1),  # it is there, but nobody says so
        ("PUT", LFS, "cut", 2),
        ("PUT", LFS, 503, 2),
        ("PUT", LFS, "hang", 1),
        ("POST", "/api/repos/create", 500, 1),
        ("POST", "/api/repos/create", "unheard", 1),
        ("POST", "/api/validate-yaml", 500, 1),
        ("GET", "/api/models/", 502, 1),
        ("GET", "/api/models/", "hang", 1),
    ],
    ids=str,
)
def test_what_passes_is_waited_out(
    hub: Hub, push: Pusher, folder: Path, method: str, path: str, kind: Kind, times: int
) -> None:
    hub.faults = [Fault(method, path, kind, times)]
    done = push(folder, REPO)
    assert "error" not in done
    assert hub.faults[0].times == 0
    assert holds(hub)
    assert len(hub.repos[REPO].commits) == 2
    assert done["commit"] == hub.repos[REPO].branches["main"]


@pytest.mark.parametrize(
    ("method", "path", "kind", "message"),
    [
        ("POST", COMMIT, 500, "the Hub answers 500: nothing was published; push again"),
        ("POST", COMMIT, "cut", "the connection to the Hub broke: nothing was published"),
        ("POST", COMMIT, 413, "the Hub refuses (413)"),
        ("PUT", LFS + r".*", 500, "the Hub answers 500: nothing was published"),
        ("PUT", LFS, "cut", "the connection to the Hub broke: nothing was published"),
        ("POST", "/preupload/", 404, "not found on the Hub (404)"),
    ],
    ids=str,
)
def test_what_fails_for_long_publishes_nothing(
    hub: Hub, push: Pusher, folder: Path, method: str, path: str, kind: Kind, message: str
) -> None:
    hub.faults = [Fault(method, path, kind)]
    assert push(folder, REPO)["error"].startswith(f"org/name: {message}")
    assert hub.repos[REPO].files().keys() == {".gitattributes"}
    uploaded, hub.faults = dict(hub.storage), []
    hub.log.clear()
    assert "error" not in push(folder, REPO)
    assert holds(hub)
    assert hub.count("PUT /lfs") == 2 - len(uploaded)  # what was there is not sent again


def test_somebody_else_commits_meanwhile(hub: Hub, push: Pusher, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.make(REPO)
    hub.faults = [Fault("POST", COMMIT, 500, 1)]
    original = hub.fault

    def fault(method: str, path: str) -> Kind | None:
        kind = original(method, path)
        if kind == 500:
            repo.commit("main", {"theirs.txt": b"1"})
        return kind

    monkeypatch.setattr(hub, "fault", fault)
    assert push(folder, REPO)["error"] == "org/name was changed by somebody else meanwhile: push again"
    assert repo.files() == {"theirs.txt": b"1"}


def test_a_list_of_ignored_files_would_leave_the_model_incomplete(hub: Hub, push: Pusher, folder: Path) -> None:
    hub.make(REPO, {".gitignore": b"text.onnx\n"})
    assert push(folder, REPO)["error"] == "org/name: its .gitignore would leave out onnx/text.onnx: change it there"
    assert len(hub.repos[REPO].commits) == 1


def test_offline(hub: Hub, folder: Path, tmp_path: Path) -> None:
    with Pusher(hub, tmp_path, HF_HUB_OFFLINE="1") as push:
        assert push(folder, REPO)["error"] == "HF_HUB_OFFLINE is set: nothing can be pushed"
    assert hub.log == []


def test_tokens_are_not_shown() -> None:
    from mmcontrast.export.hub_client import redact

    text = f"Authorization: Bearer abc.def {TOKEN} at https://storage.example/x?X-Amz-Signature=12&b=3"
    assert redact(text) == "Authorization: Bearer *** *** at https://storage.example/x"
