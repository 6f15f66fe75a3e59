"""A trained model, or an export that is there already, onto the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mmcontrast.build.exporting import export_model
from mmcontrast.build.jobs import load_encoder
from mmcontrast.data import PairSource
from mmcontrast.errors import ModelError
from mmcontrast.export.card_facts import CardAnswers
from mmcontrast.export.hub import Pushed, check_target, push
from mmcontrast.export.marker import is_export
from mmcontrast.models import DualEncoder
from mmcontrast.models.fingerprint import model_digest
from mmcontrast.models.lora import without_adapters


def push_to_hub(
    model: DualEncoder | str | Path,
    repo: str,
    formats: Sequence[str] | str = "all",
    *,
    output: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    data: PairSource | str | Path | None = None,
    check: bool = True,
    card: CardAnswers | None = None,
    say: Callable[[str], object] | None = None,
) -> Pushed:
    """Export a model and publish it on the Hub, in one commit: all of it, or nothing.

    Transformers, open_clip (`hf-hub:ORGANISATION/NAME`), sentence-transformers and `DualEncoder.from_pretrained` then
    load it by its name. The token is taken from where huggingface_hub keeps it (`hf auth login`, HF_TOKEN). What is
    uploaded when a push fails is not sent again by the next.

    Args:
        model: a model, its folder, its Hub name, or the folder of an export, which is pushed as it is.
        repo: "organisation/name"; made if it is not there.
        formats, data, check, card: as for `export_model`.
        output: keep the export in this folder.
        private: whether a new repository is; one that is public already is refused.
        revision: a branch, made from main if it is not there; None is main.
        dry_run: export and compare, but write nothing on the Hub.
        overwrite: replace another model, or files of somebody else; what was there stays in the repository's history.
        say: told what is being done.

    Raises:
        ModelError: as for `export_model`; the repository holds another model; there is no right to write; or the Hub
            fails for long. Nothing was published then.
    """
    options = {"private": private, "revision": revision, "overwrite": overwrite}
    if not isinstance(model, DualEncoder) and is_export(Path(model).expanduser()):
        if output is not None or formats != "all" or card not in (None, CardAnswers()):
            raise ModelError(f"{model} is an export already: it is pushed as it is, without formats, output and card")
        return push(model, repo, dry_run=dry_run, say=say, **options)  # type: ignore[arg-type]
    if not dry_run:
        digest = model_digest(without_adapters(load_encoder(model)))
        check_target(repo, digest, say=say, **options)  # type: ignore[arg-type]
    card = card or CardAnswers()
    card = replace(card, name=card.name or repo.rpartition("/")[2])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "export" if output is None else Path(output)
        exported = export_model(model, folder, formats, data=data, check=check, card=card, say=say)
        if say is not None:
            for name, found in exported.agreements.items():
                say(f"{name}: greatest difference {max(found.image, found.text, found.zero_shot):.1e}")
            for name, reason in exported.left_out.items():
                say(f"{name} left out: {reason}")
        return push(exported.folder, repo, dry_run=dry_run, say=say, **options)  # type: ignore[arg-type]
