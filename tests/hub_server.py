"""A small Hub for tests: repositories, branches, commits and large files in memory, over real HTTP, with faults."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

TOKEN, READ_ONLY = "hf_thisMayWriteEverything", "hf_thisMayOnlyRead"
LARGE = (".safetensors", ".onnx", ".model", ".bin")

Kind = Literal["hang", "cut", "unheard"] | int
Files = dict[str, bytes]


@dataclass
class Fault:
    """So many requests that match fail: with a status, by silence, cut in the middle, or done but unanswered."""

    method: str
    path: str
    kind: Kind
    times: int = 1_000_000


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        oid = hashlib.sha1(f"{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def files(self, branch: str = "main") -> Files:
        return self.commits[self.branches[branch]]


class Hub(ThreadingHTTPServer):
    """Everything in memory; `repos` and `log` ("METHOD path") are there for tests to look at."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.lock = threading.Lock()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def make(self, name: str, files: Files | None = None, *, private: bool = False) -> Repo:
        self.repos[name] = repo = Repo(private)
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})})
        return repo

    def forget(self) -> None:
        """As at first."""
        for part in (self.repos, self.storage, self.faults, self.log):
            part.clear()

    def writes(self) -> list[str]:
        return [line for line in self.log if line.startswith("POST /api/models") or "/repos/create" in line]

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in self.log)

    def fault(self, method: str, path: str) -> Kind | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault.kind
        return None

    def handle_error(self, *args: object) -> None:
        """Cut connections are meant."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.log.append(f"{self.command} {path}")
        kind = self.server.fault(self.command, path)
        if kind == "hang":
            self.server.released.wait(20)
            return self._hang_up()
        if kind == "cut":
            self.rfile.read1(1000)
            return self._hang_up()
        body = self._body()
        if isinstance(kind, int):
            return self._answer(kind, b"<html>out of order</html>", {"Content-Type": "text/html"})
        try:
            with self.server.lock:
                status, data, headers = self._route(path, body)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            status, data = refused.status, json.dumps({"error": refused.message}).encode()
        if kind == "unheard":
            return self._hang_up()
        return self._answer(status, data, headers)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _route(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self.command == "PUT":
            oid = path.removeprefix("/lfs/")
            if hashlib.sha256(body).hexdigest() != oid:
                raise Refused(400, "another file than was announced")
            self.server.storage[oid] = body
            return 200, b"", {}
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", TOKEN, READ_ONLY):
            raise Refused(401, f"Invalid credentials in Authorization header: {token}")
        if self.command == "POST" and token != TOKEN:
            raise Refused(403 if token else 401, f"{token} may not write")
        if path == "/api/validate-yaml":
            return self._json({"warnings": [{"message": "no licence"}], "errors": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            return self._batch(self._repo(match[1], token), json.loads(body))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(self._repo(match[1], token), match[2], match[3])
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z]+)/([^/]+))?", path):
            repo, what, revision = self._repo(match[1], token), match[2] or "revision", match[3] or "main"
            return self._model(match[1], repo, what, revision, body)
        raise Refused(404, f"no such address: {path}", "EntryNotFound")

    def _model(self, name: str, repo: Repo, what: str, revision: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if what == "branch":
            repo.branches[revision] = repo.branches["main"]
            return self._json({})
        oid = self._commit_of(repo, revision)
        files = repo.commits[oid]
        if what == "revision":
            siblings = [{"rfilename": path} for path in files]
            return self._json(
                {"id": name, "modelId": name, "sha": oid, "private": repo.private, "siblings": siblings, "tags": []}
            )
        if what == "tree":
            return self._json([self._entry(path, data) for path, data in files.items()])
        if what == "preupload":
            return self._json({"files": [self._mode(files, entry["path"]) for entry in json.loads(body)["files"]]})
        assert what == "commit"
        return self._commit(name, repo, revision, [json.loads(line) for line in body.splitlines()])

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if is_large(path):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def _mode(self, files: Files, path: str) -> dict[str, Any]:
        large = is_large(path)
        oid = None
        if path in files:
            oid = hashlib.sha256(files[path]).hexdigest() if large else git_oid(files[path])
        ignored = path.rpartition("/")[2] in files.get(".gitignore", b"").decode().split()
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignored, "oid": oid}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repos:
            return 409, json.dumps({"url": f"{self.server.url}/{name}"}).encode(), {"Content-Type": "application/json"}
        self.server.make(name, private=wanted.get("visibility") == "private" or wanted.get("private", False))
        return self._json({"url": f"{self.server.url}/{name}"})

    def _batch(self, repo: Repo, wanted: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        objects = []
        for entry in wanted["objects"]:
            if entry["oid"] not in self.server.storage:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}?signature=secret"}}
            objects.append(entry)
        return self._json({"transfer": "basic", "objects": objects})

    def _commit(
        self, name: str, repo: Repo, branch: str, lines: list[dict[str, Any]]
    ) -> tuple[int, bytes, dict[str, str]]:
        if lines[0]["value"].get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.files(branch))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.storage[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        oid = repo.commit(branch, files)
        return self._json(
            {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}
        )

    def _resolve(self, repo: Repo, revision: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        oid = self._commit_of(repo, revision)
        if path not in repo.commits[oid]:
            raise Refused(404, "Entry not found", "EntryNotFound")
        data = repo.commits[oid][path]
        etag = hashlib.sha256(data).hexdigest() if is_large(path) else git_oid(data)
        return 200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": oid, "Content-Type": "application/octet-stream"}

    def _repo(self, name: str, token: str) -> Repo:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and not token):
            raise Refused(404 if token else 401, "Repository not found", "RepoNotFound")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        oid = repo.branches.get(revision, revision)
        if oid not in repo.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    def _json(self, values: Any) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps(values).encode(), {"Content-Type": "application/json"}
