"""Files of one JSON object a line that outlive a run which is killed, or whose disk is full, at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmcontrast.errors import TrainingError


class LineFile:
    """Appends JSON objects. What the disk does not take stays in memory and is tried again with the next lines.

    Attributes:
        problem: why the last lines could not be written, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self._unwritten: list[str] = []

    def read(self) -> list[dict[str, Any]]:
        """The objects; a last line without its newline was cut off by a crash, and is left out."""
        return [values for _, values in self._objects()]

    def append(self, objects: Iterable[dict[str, Any]]) -> None:
        """Add lines."""
        self._unwritten += [json.dumps(values, ensure_ascii=False) + "\n" for values in objects]
        try:
            # Halves of characters, which names of files may hold, are escaped as JSON has it.
            self._write("".join(self._unwritten).encode("utf-8", "backslashreplace"))
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}"
        else:
            self.problem = None
            self._unwritten.clear()

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the other lines, and one that was cut off; readers see the old file or the new one."""
        if self.path.exists():
            aside = self.path.with_name(f".{self.path.name}.part")
            kept = [line + "\n" for line, values in self._objects() if wanted(values)]
            aside.write_text("".join(kept), encoding="utf-8", newline="\n")
            os.replace(aside, self.path)

    def close(self) -> None:
        """Raise TrainingError if there are lines that could not be written to the end."""
        if self._unwritten:
            self.append([])
        if self.problem is not None:
            raise TrainingError(f"{self.problem}; {len(self._unwritten)} lines are missing at its end")

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Whole lines and what they say; those that are none, as a damaged disk leaves them, are left out."""
        if not self.path.exists():
            return
        # Not splitlines: captions and file names may hold other line ends.
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            with suppress(ValueError, RecursionError):
                values = json.loads(line)
                if isinstance(values, dict):
                    yield line, values

    def _write(self, data: bytes) -> None:
        if not data:
            return
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(before)  # whole lines or none
                raise
