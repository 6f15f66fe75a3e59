"""The command line; nothing here loads torch before a command needs it."""

from .commands import app


def main() -> None:
    """Entry point of the `mmcontrast` command."""
    app()


__all__ = ["app", "main"]
