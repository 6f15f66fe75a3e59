"""CLIP_benchmark's environment: its own pinned packages over ours, so that torch and open_clip are the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
VARIABLE = "MMCONTRAST_CLIP_BENCHMARK"
_LONGEST_REASON = 400


def peer_python(folder: Path) -> Path:
    """The interpreter of the environment, which is made, or made anew, where it is not that of the requirements.

    The variable MMCONTRAST_CLIP_BENCHMARK names another one, which is taken as it is.

    Raises:
        RuntimeError: it cannot be made; says why.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given)
    python, stamp = folder / "bin" / "python", folder / "made_from"
    ours = sysconfig.get_paths()["purelib"]
    wanted = hashlib.sha256(f"{sys.version}\n{ours}\n{REQUIREMENTS.read_text()}".encode()).hexdigest()
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    stamp.unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
    (beside,) = folder.glob("lib/python3*/site-packages")
    # Behind its own packages, so that those win.
    (beside / "ours.pth").write_text(f"import sys; sys.path.append({ours!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "--no-deps", "-r", str(REQUIREMENTS)])
    stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise RuntimeError(f"{' '.join(command[1:4])} failed: {reason[-_LONGEST_REASON:]}")
