"""An export on the Hub: one commit, which is there whole or not at all.

Large files are uploaded first, where nobody sees them, and stay there if something fails: a second try sends only what
is missing. Then one commit names them all, adds the small files and deletes those of an earlier push that are no
longer written. It says from which commit it starts, so that it can be sent again when no answer came.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmcontrast.export.card_usage import name_on_hub
from mmcontrast.export.hub_client import Say, clear_errors, session
from mmcontrast.export.hub_plan import CARD, Content, Plan, bytes_of, local_files, make_plan, refuse_other
from mmcontrast.export.hub_repository import MAIN, Repository, logged_in
from mmcontrast.export.marker import read_marker
from mmcontrast.export.open_clip_folder import CONFIG, pointed_at

TIMEOUT = 60.0
"""Seconds that the Hub may be silent."""


@dataclass(frozen=True)
class Pushed:
    """What `push` did, or would do.

    Attributes:
        repo: "organisation/name".
        revision: the branch.
        url: of the repository.
        plan: what happens to each file.
        commit: what the branch stands at now; None after a dry run.
        creates: "repository" or "branch" where it is, or would be, made for this.
    """

    repo: str
    revision: str
    url: str
    plan: Plan
    commit: str | None
    creates: str | None


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    timeout: float = TIMEOUT,
    say: Say | None = None,
) -> Pushed:
    """Publish an export in one commit; the token is taken from where huggingface_hub keeps it.

    Args:
        folder: written by `export_model`; it is not changed.
        repo: "organisation/name"; made if it is not there.
        private: whether a new repository is; a public one is refused.
        revision: a branch, made from main if it is not there; None is main.
        dry_run: only compare; nothing is written on the Hub.
        overwrite: replace another model, files of somebody else, and a README.md that was written on the Hub.
        timeout: seconds that the Hub may be silent.
        say: told of what is waited for.

    Raises:
        ModelError: the repository holds something else, there is no right to write, or the Hub fails for long; then
            nothing was published.
    """
    folder = Path(folder).expanduser().absolute()
    model = read_marker(folder)["model"]
    local = _as_published(local_files(folder), repo)
    with clear_errors(repo), session(timeout) as api:
        repository = Repository(api, repo, revision or MAIN, private, say)
        repository.check_name()
        known = logged_in(needed=not dry_run)
        remote = repository.find(logged_in=known)
        if remote is None and not known and say is not None:
            say(f"without a token a private {repo} is not seen, should there be one")
        refuse_other(repo, remote, model, overwrite=overwrite)
        creates = "repository" if remote is None else None if remote.branch_exists else "branch"
        plan, commit = make_plan(local, remote, overwrite=overwrite), None
        if not dry_run:
            there = repository.prepare(remote)
            plan = make_plan(local, there, overwrite=overwrite)
            done = there.head if plan.empty else None
            commit = done or repository.publish(
                there, plan, lambda now: make_plan(local, now, overwrite=overwrite).empty
            )
        return Pushed(repo, repository.branch, f"{api.endpoint}/{repo}", plan, commit, creates)


def check_target(
    repo: str,
    model: str,
    *,
    private: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    say: Say | None = None,
) -> None:
    """The errors of `push` that are known before an export is made; `model` is its digest."""
    with clear_errors(repo), session(TIMEOUT) as api:
        repository = Repository(api, repo, revision or MAIN, private, say)
        repository.check_name()
        refuse_other(repo, repository.find(logged_in=logged_in(needed=True)), model, overwrite=overwrite)


def _as_published(files: dict[str, Content], repo: str) -> dict[str, Content]:
    """The files as they are on the Hub, where code on the card, and open_clip its tokenizer, find things by name."""
    named: dict[str, Content] = {}
    if CARD in files:
        named[CARD] = name_on_hub(bytes_of(files[CARD]).decode("utf-8"), repo).encode()
    if CONFIG in files:
        named[CONFIG] = pointed_at(bytes_of(files[CONFIG]), repo)
    return files | named
