"""How a command ends: one line on stderr for an error, and an exit code that scripts can tell apart."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from mmcontrast.errors import MMContrastError, printable

INCOMPLETE = 3
UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
_MOST_LINES, _LONGEST_LINE = 100, 2000
_NO_MEMORY = ("can't allocate memory", "not enough memory")  # torch, on a CPU


class Interrupted(MMContrastError):
    """Ctrl-C where nothing had to be saved."""

    exit_code = 130


class Commands(TyperGroup):
    """Turns every error into one line on stderr and an exit code; --debug, anywhere, adds the traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C becomes an error of ours, since versions of typer differ in what they do."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "mmcontrast",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line.

        Exit codes: 0 done, 1 an error of the user's, 2 wrong usage, 3 done but for data that could not be read, 70 an
        unexpected error, 130 interrupted, 143 terminated.
        """
        argv = list(sys.argv[1:] if args is None else args)
        words = [word for word in argv if word != "--debug"]
        try:
            code = super().main(words, prog_name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:
            if words != argv:
                typer.echo(printable("".join(traceback.format_exception(error))), err=True)
            code = explain(error)
        if standalone_mode:
            sys.exit(code or 0)
        return code


def explain(error: Exception) -> int:
    """Say what went wrong on stderr; returns the exit code."""
    code, lines = 1, [" ".join(str(error).split())]
    if isinstance(error, MMContrastError):
        # A config can be wrong in several places: one line each.
        code, lines = getattr(error, "exit_code", 1), str(error).splitlines() or [type(error).__name__]
    elif hasattr(error, "format_message"):  # the usage errors of typer, or of click under older versions of it
        code, lines = getattr(error, "exit_code", 2), [f"{error.format_message()} (see --help)"]
    elif isinstance(error, OSError) and error.strerror:
        lines = [f"{error.filename}: {error.strerror}" if error.filename else error.strerror]
    elif type(error).__name__ in ("OutOfMemoryError", "MemoryError") or any(text in lines[0] for text in _NO_MEMORY):
        lines = [
            "memory is full: set training.micro_batch_size or training.gradient_checkpointing, or lower "
            "training.global_batch_size (evaluate, embed: --batch-size)"
        ]
    else:
        code = UNEXPECTED
        lines = [f"unexpected {type(error).__name__}: {lines[0]} (add --debug for the traceback)"]
    hidden = len(lines) - _MOST_LINES
    for line in lines[:_MOST_LINES]:
        line = printable(line)
        typer.echo(f"error: {line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + '...'}", err=True)
    if hidden > 0:
        typer.echo(f"error: and {hidden} more of the kind", err=True)
    return code
