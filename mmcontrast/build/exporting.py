"""A trained model in the formats of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mmcontrast.build.card_examples import example_pictures, may_be_shown
from mmcontrast.build.carding import FoundRun, card_facts, find_run
from mmcontrast.build.jobs import load_encoder
from mmcontrast.build.parts import open_pairs
from mmcontrast.data import PairSource, open_source
from mmcontrast.errors import DataError
from mmcontrast.export.card import write_card
from mmcontrast.export.card_facts import CardAnswers, ExamplePicture
from mmcontrast.export.card_metadata import check_answers
from mmcontrast.export.checking import Examples
from mmcontrast.export.formats import Exported, refuse_foreign
from mmcontrast.export.formats import export_model as write_formats
from mmcontrast.models import DualEncoder
from mmcontrast.preprocess import decode_image

EXAMPLES = 24
"""Pictures and captions that an export is checked with."""


def export_model(
    model: DualEncoder | str | Path,
    output: str | Path,
    formats: Sequence[str] | str = "all",
    *,
    data: PairSource | str | Path | None = None,
    check: bool = True,
    card: CardAnswers | None = None,
    say: Callable[[str], object] | None = None,
) -> Exported:
    """Write a model so that transformers, open_clip, sentence-transformers or onnxruntime load it as their own.

    Args:
        model: a model, its folder, or its Hub name.
        output: a new folder, an empty one, or an earlier export, which is replaced.
        formats: one or several of `mmcontrast.export.formats.FORMATS`, or "all", which leaves out those that cannot
            express the model.
        data: pairs to check the export with, as for `open_source`; None takes embedded scenes.
        check: load the export with each library in a fresh process, offline, and compare features and scores.
        card: what only its author can say of the model: licence, languages... The card (README.md) is always written;
            where the model is RUN/model, with the data, recipe and results of the run.
        say: told what is being done.

    Raises:
        ModelError: a format cannot express these towers, a library is missing or gives other numbers, or `output`
            holds something else.
    """
    refuse_foreign(Path(output))  # before anything is loaded
    answers = card or CardAnswers()
    check_answers(answers)
    chosen = formats if formats == "all" else [formats] if isinstance(formats, str) else list(formats)
    examples = _examples("synthetic://scenes" if data is None else data) if check else None
    encoder, run = load_encoder(model), find_run(model, say)
    pictures, gallery = _pictures(encoder, run, data, answers.pictures, say)
    name = "model" if isinstance(model, DualEncoder) else Path(model).resolve().name

    def describe(folder: Path, names: Sequence[str], exported: Exported) -> None:
        facts = card_facts(encoder, names, run, answers, name)
        agreements: dict[str, float] = {key: found.worst for key, found in exported.agreements.items()}
        left_out: dict[str, str] = {str(key): reason for key, reason in exported.left_out.items()}
        write_card(
            folder,
            replace(facts, examples=pictures, gallery=gallery, agreements=agreements, left_out=left_out),
        )

    return write_formats(encoder, chosen, output, examples=examples, describe=describe, say=say)  # type: ignore[arg-type]


def _pictures(
    model: DualEncoder,
    run: FoundRun | None,
    data: PairSource | str | Path | None,
    wanted: bool | None,
    say: Callable[[str], object] | None,
) -> tuple[Sequence[ExamplePicture], int]:
    """Examples out of the run's validation pairs, or of `data` where there is no run; see `CardAnswers.pictures`."""
    of_run = None if run is None else run.config.data.validation or run.config.data.sources[0]
    name = of_run.path if of_run is not None else "" if data is None else str(getattr(data, "name", data))
    if not name or not may_be_shown(name, wanted):
        return [], 0
    try:
        if run is not None and of_run is not None:
            return example_pictures(model, open_pairs(run.config, of_run))
        assert data is not None
        return example_pictures(model, data if isinstance(data, PairSource) else open_source(data))
    except DataError as error:
        if wanted:
            raise
        if say is not None:
            say(f"no pictures on the card: {error}")
        return [], 0


def _examples(data: PairSource | str | Path) -> Examples:
    source = data if isinstance(data, PairSource) else open_source(data)
    rows = range(min(len(source), EXAMPLES))
    pictures = [decode_image(source.image(row)) for row in rows]
    captions = [caption for row in rows for caption in source.captions(row)]
    return Examples(pictures, list(dict.fromkeys(captions)))
