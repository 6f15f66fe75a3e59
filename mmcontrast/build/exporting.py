"""A trained model in the formats of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmcontrast.build.jobs import load_encoder
from mmcontrast.data import PairSource, open_source
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
        say: told what is being done.

    Raises:
        ModelError: a format cannot express these towers, a library is missing or gives other numbers, or `output`
            holds something else.
    """
    refuse_foreign(Path(output))  # before anything is loaded
    chosen = formats if formats == "all" else [formats] if isinstance(formats, str) else list(formats)
    examples = _examples("synthetic://scenes" if data is None else data) if check else None
    return write_formats(load_encoder(model), chosen, output, examples=examples, say=say)  # type: ignore[arg-type]


def _examples(data: PairSource | str | Path) -> Examples:
    source = data if isinstance(data, PairSource) else open_source(data)
    rows = range(min(len(source), EXAMPLES))
    pictures = [decode_image(source.image(row)) for row in rows]
    captions = [caption for row in rows for caption in source.captions(row)]
    return Examples(pictures, list(dict.fromkeys(captions)))
