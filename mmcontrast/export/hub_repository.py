"""One branch of one repository of the Hub: looked at, made, written."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from mmcontrast.errors import ModelError
from mmcontrast.export import hub_client
from mmcontrast.export.hub_client import Say, has_token, is_passing, patiently, status, what_failed
from mmcontrast.export.hub_plan import Plan, Remote, RemoteFile
from mmcontrast.export.marker import MARKER, parse_marker

MAIN = "main"
_Operation = CommitOperationAdd | CommitOperationDelete


@dataclass(frozen=True)
class Repository:
    """A branch on the Hub.

    Attributes:
        api: of a `session`.
        name: "organisation/name".
        branch: which.
        private: what it must be.
        say: told of what is waited for.
    """

    api: HfApi
    name: str
    branch: str = MAIN
    private: bool = False
    say: Say | None = None

    def check_name(self) -> None:
        """An error where the owner is left out."""
        if self.name.count("/") != 1:
            raise ModelError(f"{self.name}: name the repository with its owner, as ORGANISATION/NAME")

    def find(self, *, logged_in: bool = True) -> Remote | None:
        """The branch as it stands or would be made; None where there is no such repository."""
        try:
            main = patiently(lambda: self.look(MAIN), self.say)
        except RepositoryNotFoundError as error:
            # Who is not logged in is told 401 of what is not there, too.
            if status(error) == 404 or not logged_in:
                return None
            raise
        if self.private and not main.private:
            raise ModelError(f"{self.name} is public already: make it private in its settings, or choose another name")
        if self.branch == MAIN:
            return main
        try:
            own = patiently(self.look, self.say)
        except RevisionNotFoundError:
            return replace(main, fresh=True, branch_exists=False)
        return replace(own, fresh=own.head == main.head)

    def look(self, branch: str | None = None) -> Remote:
        """What stands in the branch (another than our own, if told so)."""
        info = self.api.model_info(self.name, revision=branch or self.branch)
        files = {}
        for entry in self.api.list_repo_tree(self.name, revision=info.sha, recursive=True):
            if blob := getattr(entry, "blob_id", None):  # folders have none
                lfs = getattr(entry, "lfs", None)
                files[entry.path] = RemoteFile(getattr(entry, "size", 0), blob, lfs.sha256 if lfs else None)
        marker = None
        if MARKER in files:
            marker = parse_marker(Path(self.api.hf_hub_download(self.name, MARKER, revision=info.sha)).read_bytes())
        return Remote(info.sha, files, marker, bool(info.private))

    def prepare(self, remote: Remote | None) -> Remote:
        """Make what is missing of the repository and the branch that `find` saw; returns the branch."""
        if remote is not None and remote.branch_exists:
            return remote
        if remote is None:
            patiently(lambda: self.api.create_repo(self.name, private=self.private or None, exist_ok=True), self.say)
        if self.branch != MAIN:
            patiently(lambda: self.api.create_branch(self.name, branch=self.branch, exist_ok=True), self.say)
        found = self.find()
        if found is None:
            raise ModelError(f"{self.name} was made, but the Hub does not show it yet: push again in a moment")
        return found

    def publish(self, remote: Remote, plan: Plan, is_done: Callable[[Remote], bool]) -> str:
        """Upload the large files, which nobody sees, then commit; returns the commit.

        Args:
            remote: the commit to start from; if the branch has moved, nothing is written.
            plan: what to write.
            is_done: whether a branch holds what `plan` leads to.
        """
        added = [CommitOperationAdd(path, content) for path, content in plan.contents.items()]
        # What a former try has uploaded is skipped; each file is tried several times by huggingface_hub itself.
        self.api.preupload_lfs_files(self.name, added, revision=self.branch, free_memory=False)
        if ignored := [operation.path_in_repo for operation in added if getattr(operation, "_should_ignore", False)]:
            raise ModelError(f"{self.name}: its .gitignore would leave out {ignored[0]}: change it there")
        operations: list[_Operation] = [*added]
        operations += [CommitOperationDelete(path, is_folder=False) for path in plan.paths("delete")]
        waits = iter(hub_client.WAITS)
        while True:
            try:
                return self._commit(operations, remote)
            except Exception as error:
                # Without an answer, and where the branch has moved, the commit may be there all the same.
                if not is_passing(error) and status(error) not in (409, 412):
                    raise
                now = patiently(self.look, self.say)
                if now.head and now.head != remote.head:
                    if is_done(now):
                        return now.head
                    raise ModelError(f"{self.name} was changed by somebody else meanwhile: push again") from None
                if (wait := next(waits, None)) is None:
                    raise
                if self.say is not None:
                    self.say(f"{what_failed(error)}; once more in {wait:g} s")
            time.sleep(wait)

    def _commit(self, operations: Sequence[_Operation], remote: Remote) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the Hub about the card: its page shows them
            done = self.api.create_commit(
                self.name,
                operations,
                commit_message=f"Export of mmcontrast ({len(operations)} files)",
                revision=self.branch,
                parent_commit=remote.head,
            )
        return str(done.oid)


def logged_in(*, needed: bool) -> bool:
    """Whether there is a token; an error where it is needed and there is none."""
    there = has_token()
    if needed and not there:
        raise ModelError("no token for the Hub: log in with hf auth login, or set HF_TOKEN")
    return there
