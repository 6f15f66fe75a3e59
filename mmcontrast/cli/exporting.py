"""The command that writes a model for other libraries, and publishes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcontrast.cli.options import (
    CardDatasets,
    CardEvalDataset,
    CardLanguages,
    CardLicence,
    CardName,
    CardPictures,
    CardWatts,
    Model,
)
from mmcontrast.cli.output import show_export, show_push, show_remark


def export(
    model: Model,
    output: Annotated[
        Path | None, typer.Option(help="New folder, or an earlier export, which is replaced; needed unless pushed.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="transformers, open_clip, sentence_transformers, onnx, mmcontrast or all; repeatable."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pairs to check the export with; embedded scenes if left out.")
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Load the export with its own library in a fresh process and compare.")
    ] = True,
    name: CardName = None,
    licence: CardLicence = None,
    datasets: CardDatasets = None,
    eval_dataset: CardEvalDataset = None,
    languages: CardLanguages = None,
    pictures: CardPictures = None,
    watts: CardWatts = None,
    repo: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="ORG/NAME", help="Publish it there; MODEL may be an export.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Push to this branch; made if it is not there.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be pushed; publish nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another model or README.md in the repository.")
    ] = False,
) -> None:
    """Write a model so that transformers, open_clip, sentence-transformers or onnxruntime load it as their own.

    Its card, README.md, tells of the training where MODEL is RUN/model.
    """
    wanted: list[str] | str = "all" if not formats or "all" in formats else formats
    if repo is None:
        pushing = {"--private": private, "--revision": revision, "--dry-run": dry_run, "--overwrite": overwrite}
        if given := [name for name, value in pushing.items() if value]:
            raise typer.BadParameter(f"{given[0]} goes with --push-to-hub")
        if output is None:
            raise typer.BadParameter("give --output FOLDER, or --push-to-hub ORG/NAME")
    from mmcontrast import build
    from mmcontrast.export.card_facts import CardAnswers

    card = CardAnswers(name, licence, datasets or (), eval_dataset, languages or (), pictures, watts)
    if repo is None:
        assert output is not None
        show_export(build.export_model(model, output, wanted, data=data, check=check, card=card, say=show_remark))
        return
    pushed = build.push_to_hub(
        model,
        repo,
        wanted,
        output=output,
        private=private,
        revision=revision,
        dry_run=dry_run,
        overwrite=overwrite,
        data=data,
        check=check,
        card=card,
        say=show_remark,
    )
    show_push(pushed)
