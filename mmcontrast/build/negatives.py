"""A look at the negatives of a data set: inspect, show as a page, sum up as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mmcontrast.build.jobs import WORKERS, left_out, load_encoder
from mmcontrast.build.negatives_view import negatives_view
from mmcontrast.data import PairSource, open_source
from mmcontrast.embedding import Advance
from mmcontrast.errors import DataError
from mmcontrast.evaluation.embedded import embed_data
from mmcontrast.evaluation.false_negatives import NegativesInspection, find_false_negatives
from mmcontrast.evaluation.pair_sweep import JudgedPair
from mmcontrast.models import DualEncoder
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.evidence import new_calibrator
from mmcontrast.negatives.words import WordStatistics
from mmcontrast.report.html import write_negatives
from mmcontrast.report.negatives import NegativesView
from mmcontrast.types import BadRow

ROWS = 2000
_RUN_ROWS = 1000
_BATCH = 256


class SampledRows:
    """Some rows of a source, in its order: as a `PairSource`."""

    def __init__(self, source: PairSource, rows: int, seed: int) -> None:
        chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:rows]
        self._source, self._rows = source, chosen.sort().values.tolist()
        self.name, self.columns, self.label_names = source.name, source.columns, source.label_names
        self.bad_rows: list[BadRow] = []

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, i: int) -> bytes | Path:
        """As of the source."""
        return self._source.image(self._rows[i])

    def captions(self, i: int) -> list[str]:
        """As of the source."""
        return self._source.captions(self._rows[i])

    def label(self, i: int) -> int | None:
        """As of the source."""
        return self._source.label(self._rows[i])

    def group(self, i: int) -> str | None:
        """As of the source."""
        return self._source.group(self._rows[i])

    def row_number(self, i: int) -> int:
        """As of the source."""
        return self._source.row_number(self._rows[i])


def inspect_negatives(
    model: DualEncoder | str | Path,
    data: PairSource | str | Path,
    output: str | Path | None = None,
    *,
    rows: int = ROWS,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: Advance | None = None,
    say: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Which pairs of a data set would training push apart wrongly? Judged with a model, shown on a page.

    Args:
        model: a model, its folder, or its Hub name; the better it is, the better it finds them.
        data: anything that `open_source` opens, or an open source.
        output: HTML file of the page, or None for none.
        rows: at most so many rows are looked at, drawn at random.
        split, image_column, caption_columns, label_column, group_column: as for `open_source`.
        batch_size: pictures or captions embedded at a time.
        seed: of every random choice.
        progress: told how many more pictures or captions are done.
        say: told what the reader should know.

    Returns:
        The numbers and the pairs of the page, ready for JSON; see `summary`.

    Raises:
        DataError: no captions, or too few rows.
    """
    if rows < 1:
        raise DataError(f"rows = {rows}: at least 1 is needed")
    if isinstance(data, str | Path):
        data = open_source(
            data,
            split=split,
            image_column=image_column,
            caption_columns=caption_columns,
            label_column=label_column,
            group_column=group_column,
        )
    encoder = load_encoder(model)
    sample: PairSource = SampledRows(data, rows, seed)
    inspection = inspect_source(encoder, sample, seed=seed, batch_size=batch_size, progress=progress)
    if say is not None:
        for line in [*left_out(data), *inspection.notes]:
            say(line)
    if output is not None:
        facts = {
            "pairs looked at": f"{len(sample):,} of {len(data):,}",
            "captions": f"{len(inspection.data.captions):,}",
        }
        if not isinstance(model, DualEncoder):
            facts["model"] = str(model)
        write_negatives(negatives_view(inspection, sample), output, name=data.name, facts=facts)
    return summary(inspection, sample)


def inspect_source(
    encoder: DualEncoder,
    source: PairSource,
    *,
    seed: int = 0,
    batch_size: int = 256,
    workers: int = WORKERS,
    progress: Advance | None = None,
    calibrator: Calibrator | None = None,
    words: WordStatistics | None = None,
    reference: int = _BATCH,
) -> NegativesInspection:
    """Embed a source and judge its pairs, with a calibrator of its own or that of a run."""
    data = embed_data(encoder, source, batch_size=batch_size, workers=workers, progress=progress)
    return find_false_negatives(
        data,
        encoder.tokenizer,
        encoder.tokenizer.vocab_size,
        seed=seed,
        calibrator=calibrator,
        words=words,
        reference=reference,
    )


def negatives_of_run(
    encoder: DualEncoder,
    source: PairSource,
    *,
    calibrator: Calibrator | None,
    words: WordStatistics | None,
    batch: int,
    rows: int = _RUN_ROWS,
    batch_size: int = 256,
    workers: int = WORKERS,
) -> NegativesView | None:
    """What the report of a run shows of its training pairs, or None where they cannot be judged.

    Args:
        encoder: the best model.
        source: the training pairs.
        calibrator, words: those of the run, on any device; an unready calibrator, or None, is fitted anew.
        batch: pairs of a global batch of the run.
        rows: at most so many pairs are looked at, drawn at random.
        batch_size: pictures or captions embedded at a time.
        workers: processes that decode.
    """
    sample = SampledRows(source, rows, seed=0)
    own = calibrator is not None and calibrator.ready and words is not None
    try:
        found = inspect_source(
            encoder,
            sample,
            batch_size=batch_size,
            workers=workers,
            calibrator=_on_cpu(calibrator) if own and calibrator is not None else None,
            words=_words_on_cpu(words) if own and words is not None else None,
            reference=batch if own else _BATCH,
        )
    except DataError:  # too few pairs, or pictures without captions: there is nothing to show
        return None
    return negatives_view(found, sample)


def _on_cpu(calibrator: Calibrator) -> Calibrator:
    copy = new_calibrator(calibrator.linked)
    copy.load_state_dict(calibrator.state_dict())
    return copy


def _words_on_cpu(words: WordStatistics) -> WordStatistics:
    copy = WordStatistics(len(words.counts))
    copy.load_state_dict(words.state_dict())
    return copy


def summary(found: NegativesInspection, source: PairSource) -> dict[str, Any]:
    """What was found, as plain values: shares, calibration, clusters, and the pairs of the galleries."""
    curve = found.reliability
    return {
        "source": found.data.name,
        "images": len(found.data.positions),
        "captions": len(found.data.captions),
        "pairs_judged": found.pairs,
        "calibrated": found.calibrated,
        "known_share": found.known_share,
        "believed_share": found.believed_share,
        "believed_in_batch_of_256": None if found.believed_share is None else _in_batch(found, found.believed_share),
        "prior": found.prior,
        "truth": found.truth,
        "true_share": found.true_share,
        "reliability": None if curve is None else vars(curve),
        "clusters": len(found.clusters.clusters),
        "cluster_purity": found.clusters.purity,
        "false_negatives": [_pair_values(pair, found, source) for pair in found.false_negatives],
        "borderline": [_pair_values(pair, found, source) for pair in found.borderline],
        "hard_negatives": [_pair_values(pair, found, source) for pair in found.hard_negatives],
        "notes": found.notes,
    }


def _in_batch(found: NegativesInspection, share: float) -> float:
    """How many of an anchor's 255 others in a random batch a share of the pairs not known to match is."""
    return share * (1 - found.known_share) * (_BATCH - 1)


def _pair_values(pair: JudgedPair, found: NegativesInspection, source: PairSource) -> dict[str, Any]:
    data = found.data
    return {
        "row": source.row_number(int(data.positions[pair.image])),
        "caption": data.captions[pair.caption],
        "other_row": source.row_number(int(data.positions[pair.other])),
        "other_caption": data.captions[pair.other_caption],
        "probability": pair.score if found.calibrated else None,
        "cosine": pair.cosine,
        "same": pair.same,
    }
