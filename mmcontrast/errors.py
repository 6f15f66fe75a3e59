"""Errors that are meant for the user: one line that names the file, row or field, and the mend."""

import re

# What a terminal would obey or a reader be misled by: control characters but for line breaks and tabs, marks that
# turn the direction of text around, line ends of other kinds, and halves of characters that cannot be encoded.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text of others, such as a file name or a caption, with its control characters spelt out: ESC as \\x1b."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class MMContrastError(Exception):
    """Base of all errors that the command line prints as one line and turns into a non-zero exit code."""

    def __str__(self) -> str:
        return printable(super().__str__())  # it quotes names and cells that others chose


class ConfigError(MMContrastError):
    """The configuration is wrong: unknown key, bad value, or fields that contradict each other."""


class DataError(MMContrastError):
    """A file, row or picture cannot be used as it is."""


class ReadError(DataError):
    """A file could not be read just now (network, time-out, ...): another try may help."""


class ModelError(MMContrastError):
    """A tower, tokenizer or checkpoint cannot be built, loaded or saved."""


class TrainingError(MMContrastError):
    """Training cannot start or go on (too many bad rows, non-finite losses, a foreign checkpoint, ...)."""


class Interrupted(MMContrastError):
    """A signal stopped a command that can be taken up again.

    Attributes:
        exit_code: 128 + the signal's number, as shells report it (130 for Ctrl-C, 143 for SIGTERM).
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CheckpointFailed(TrainingError):
    """A checkpoint could not be written (disk full, read-only, ...); those before it are as they were."""


class TrainingInterrupted(TrainingError):
    """A signal stopped the run after its state was saved.

    Attributes:
        exit_code: 128 + the signal's number, as shells report it (130 for Ctrl-C, 143 for SIGTERM).
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
