"""A suite: a YAML list of evaluations that `mmcontrast evaluate --suite` runs one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from mmcontrast.config.document import read_document
from mmcontrast.config.load import validate
from mmcontrast.config.section import Count, Section, Text
from mmcontrast.task_names import Task


class SuiteTask(Section):
    """One evaluation; the fields are the options of `mmcontrast evaluate`."""

    name: Text
    """Name in the results; each only once."""
    task: Task
    """What is measured."""
    data: Text
    """File, glob, folder or Hub name; relative paths start at the current directory."""
    split: Text | None = None
    """Split of a Hub or saved data set."""
    image_column: Text | None = None
    """Column of the pictures; null guesses it."""
    caption_columns: Annotated[list[Text], Field(min_length=1)] | None = None
    """Columns of the captions; null guesses them."""
    label_column: Text | None = None
    """Column of the class labels; null guesses it."""
    group_column: Text | None = None
    """Column of the groups; null guesses it."""
    templates: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    """Prompts with {} for the class name, or a file of them; null takes the model's."""
    classnames: Text | dict[str, Text] | list[Text] | None = None
    """Spelling of the classes, or a file of it; null takes the data's names."""
    positives: Literal["id", "caption", "group", "label"] = "id"
    """What makes a caption and a picture belong together."""
    train_data: Text | None = None
    """Labelled pictures that a probe learns from."""
    train_split: Text | None = None
    """Their split."""
    ks: Annotated[list[Count], Field(min_length=1)] | None = None
    """k of the recalls; null takes 1, 5 and 10 as far as they are defined."""
    batch_size: Count = 256
    """Pictures or captions embedded at a time."""


class Suite(Section):
    """Evaluations in their order."""

    tasks: Annotated[list[SuiteTask], Field(min_length=1)]
    """The evaluations."""

    @model_validator(mode="after")
    def _unique(self) -> Suite:
        names = [task.name for task in self.tasks]
        twice = [(at, name) for at, name in enumerate(names) if name in names[:at]]
        if twice:
            problems = [(f"tasks.{at}.name", f"{name!r} is taken; rename one") for at, name in twice]
            raise PydanticCustomError("between_fields", "names are not unique", {"problems": problems})
        return self


def load_suite(path: str | Path) -> Suite:
    """Read a suite.

    Raises:
        ConfigError: as `load_config` does, one line a problem with file and line.
    """
    return validate(Suite, read_document(Path(path)))
