"""Clients of the test Hub: fresh processes, since huggingface_hub reads its settings when it is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hub_server import TOKEN, Hub

ROOT = Path(__file__).parents[1]
_PUSH = """
import json, os, sys, time
real = time.sleep
time.sleep = lambda seconds: real(min(seconds, 0.02))
from mmcontrast.errors import ModelError
from mmcontrast.export.hub import push
for line in sys.stdin:
    token, folder, repo, options = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    said = []
    try:
        pushed = push(folder, repo, say=said.append, **options)
        result = {"commit": pushed.commit, "creates": pushed.creates, "lines": list(pushed.plan.lines())}
    except ModelError as error:
        result = {"error": str(error)}
    print(json.dumps(result | {"said": said}), flush=True)
"""


def environment(hub: Hub, home: Path, token: str | None = TOKEN) -> dict[str, str]:
    """Of a machine whose only Hub is this one, with its own cache."""
    values = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    values |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    values |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return values | ({"HF_TOKEN": token} if token else {})


def run(hub: Hub, home: Path, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run Python with these words."""
    return subprocess.run(
        [sys.executable, *words], env=environment(hub, home, token), capture_output=True, text=True, timeout=120
    )


class Pusher:
    """A process that pushes exports, with short waits; as a context it ends with it, and has said nothing on stderr."""

    def __init__(self, hub: Hub, home: Path, **settings: str) -> None:
        self._errors = home / "stderr.txt"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PUSH],
                env=environment(hub, home) | settings,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> Pusher:
        return self

    def __exit__(self, *args: object) -> None:
        self._process.communicate(timeout=30)
        assert self._errors.read_text() == ""

    def __call__(self, folder: Path, repo: str, token: str | None = TOKEN, **options: Any) -> dict[str, Any]:
        """Push an export; returns commit, creates, lines, said, or error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([token, str(folder), repo, {"timeout": 1.5, **options}]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._errors.read_text()
        assert "hf_" not in line, "a token is shown"
        assert "secret" not in line, "a signed address is shown"
        result: dict[str, Any] = json.loads(line)
        return result
