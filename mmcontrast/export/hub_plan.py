"""What a push to the Hub would do: compared file by file, without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mmcontrast.errors import ModelError
from mmcontrast.export.marker import MARKER, pushed_marker, read_marker

CARD = "README.md"
NOT_PUSHED = {".git", ".cache", "__pycache__", ".DS_Store"}
_PAPERS = (".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp")

Content = Path | bytes
State = Literal["new", "changed", "unchanged", "delete"]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        size: bytes.
        git: git's SHA-1 of the blob.
        sha256: of a file in large-file storage, else None.
    """

    size: int
    git: str
    sha256: str | None = None

    def holds(self, content: Content) -> bool:
        """Whether the file is this, byte for byte."""
        if self.size != size_of(content):
            return False
        return digest(content, "sha256") == self.sha256 if self.sha256 else git_digest(content) == self.git


@dataclass(frozen=True)
class Remote:
    """A branch of a repository as it stands.

    Attributes:
        head: its commit.
        files: by path.
        marker: what our last push wrote; None where the repository is not ours.
        private: whether only its owners see it.
        fresh: the branch has nothing of its own yet: it is to be made from main, or stands where main stands.
        branch_exists: False where it is to be made.
    """

    head: str | None
    files: Mapping[str, RemoteFile]
    marker: Mapping[str, Any] | None = None
    private: bool = False
    fresh: bool = False
    branch_exists: bool = True


@dataclass(frozen=True)
class Step:
    """What happens to one file."""

    path: str
    state: State
    size: int


@dataclass(frozen=True)
class Plan:
    """All that one commit does.

    Attributes:
        steps: one for each file, by path.
        contents: of the new and the changed files.
        kept_card: the repository's README.md was written by somebody else and stays as it is.
    """

    steps: Sequence[Step]
    contents: Mapping[str, Content]
    kept_card: bool

    def paths(self, state: State) -> list[str]:
        """The files with which this happens."""
        return [step.path for step in self.steps if step.state == state]

    @property
    def empty(self) -> bool:
        """Whether the repository holds all of it already."""
        return all(step.state == "unchanged" for step in self.steps)

    def lines(self) -> Iterator[str]:
        """One line for each file, and one for all."""
        for step in self.steps:
            yield f"  {step.state:9}  {readable(step.size):>9}  {step.path}"
        sent = [step for step in self.steps if step.state in ("new", "changed")]
        yield (
            f"  {len(sent)} to upload ({readable(sum(step.size for step in sent))}), "
            f"{len(self.paths('unchanged'))} unchanged, {len(self.paths('delete'))} to delete"
        )
        if self.kept_card:
            yield f"  {CARD} on the Hub was not written by an export: it is kept (--overwrite replaces it)"


def local_files(folder: Path) -> dict[str, Content]:
    """The files of an export by their paths in the repository.

    Raises:
        ModelError: `folder` is no finished export, or was written by a version that did not note the model.
    """
    read_marker(folder)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    relative = {path.relative_to(folder): path for path in found}
    return {key.as_posix(): path for key, path in relative.items() if not NOT_PUSHED.intersection(key.parts)}


def refuse_other(repo: str, remote: Remote | None, model: str, *, overwrite: bool) -> None:
    """An error where a push would replace another model than `model` (a digest), or files that are not ours.

    The same model may be pushed again: in other formats, with another card, by another version. A model that was
    trained on is another one.
    """
    if remote is None or remote.fresh or overwrite:
        return
    others = [path for path in remote.files if not _is_paper(path)]
    if remote.marker is None and others:
        raise ModelError(f"{repo} holds files of somebody else ({others[0]}): --overwrite replaces them")
    if remote.marker is not None and remote.marker["model"] != model:
        raise ModelError(
            f"{repo} holds another model ({remote.marker['model'][:8]}, and this is {model[:8]}): "
            "choose another name or --revision BRANCH, or replace it with --overwrite"
        )


def make_plan(local: Mapping[str, Content], remote: Remote | None, *, overwrite: bool = False) -> Plan:
    """What to upload and to delete so that the repository holds `local` (from `local_files`), and what others wrote.

    Files of an earlier push that are not written any more are deleted. A README.md that somebody else wrote stays, and
    so does every other file that is not of an export. Only with `overwrite`, and on a new branch, which takes nothing
    from main, README.md is replaced, and of a repository that is not ours only the papers stay (licence, texts,
    pictures).
    """
    there = {} if remote is None else dict(remote.files)
    marker = None if remote is None else remote.marker
    whole = overwrite or (remote is not None and remote.fresh)
    ours = marker is not None and CARD in there and there[CARD].git == marker.get("card")
    same_card = CARD in local and CARD in there and there[CARD].holds(local[CARD])
    kept_card = CARD in local and CARD in there and not (ours or same_card or whole)
    wanted = {path: content for path, content in local.items() if not (kept_card and path == CARD)}
    card = git_digest(wanted[CARD]) if CARD in wanted else None
    wanted[MARKER] = pushed_marker(bytes_of(local[MARKER]), list(wanted), card)
    steps, contents = [], {}
    for path, content in sorted(wanted.items()):
        state: State = "new" if path not in there else "unchanged" if there[path].holds(content) else "changed"
        steps.append(Step(path, state, size_of(content)))
        if state != "unchanged":
            contents[path] = content
    stale = [] if remote is None else _stale(remote, whole=whole)
    steps += [Step(path, "delete", there[path].size) for path in stale if path not in wanted and path != CARD]
    if CARD in there and CARD not in local and ours:
        steps.append(Step(CARD, "delete", there[CARD].size))
    return Plan(steps, contents, kept_card)


def _stale(remote: Remote, *, whole: bool) -> list[str]:
    if remote.marker is None:
        return [path for path in remote.files if not _is_paper(path)] if whole else []
    written = remote.marker.get("files")
    return [path for path in remote.files if path in written] if isinstance(written, list) else []


def _is_paper(path: str) -> bool:
    name = PurePosixPath(path).name
    return name in (".gitattributes", ".gitignore") or name.startswith("LICENSE") or name.lower().endswith(_PAPERS)


def size_of(content: Content) -> int:
    """Bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def digest(content: Content, name: str) -> str:
    """Hexadecimal digest of a file or of bytes."""
    if isinstance(content, bytes):
        return hashlib.new(name, content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


def bytes_of(content: Content) -> bytes:
    """All of it."""
    return content if isinstance(content, bytes) else content.read_bytes()


def git_digest(content: Content) -> str:
    """What git calls the blob."""
    data = bytes_of(content)
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def readable(size: int) -> str:
    """Bytes for people: 812 B, 34.2 kB, 1.3 GB."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
