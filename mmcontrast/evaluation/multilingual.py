"""Retrieval for each column of captions, say one for each language, over the same pictures, and between the columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from mmcontrast.data.rows import ColumnedSource, PairSource
from mmcontrast.errors import DataError
from mmcontrast.evaluation.embedded import EmbeddedData, select_rows
from mmcontrast.evaluation.metrics import Metrics, hit_share
from mmcontrast.evaluation.outcomes import Details, Items, TaskResult
from mmcontrast.evaluation.positives import PositiveKeys
from mmcontrast.evaluation.ranking import Ranking
from mmcontrast.evaluation.retrieval import check_ks, rank_pairs


def check_columns(source: PairSource) -> None:
    """Raise DataError unless the source has several columns of captions."""
    if not isinstance(source, ColumnedSource) or len(source.columns.captions) < 2:
        raise DataError(
            f"{source.name}: multilingual compares columns of captions: name two or more of them "
            "(--caption-column, repeated; caption_columns in a suite)"
        )


def multilingual(
    data: EmbeddedData, source: PairSource, positives: str, ks: Sequence[int], strict: bool = False
) -> TaskResult:
    """Retrieval by each column of captions.

    Only pictures that have a caption in every column take part, so that the columns are measured on the same ones.

    Args:
        data: embedded.
        source: what it was embedded from; has several caption columns.
        positives: the rule; between two columns "caption" means "id", as equal captions are not to be expected.
        ks: of the recalls.
        strict: a k above the size of a gallery is an error; otherwise that recall is None.

    Returns:
        For each column `COLUMN/image_to_text_recall@k`, `COLUMN/text_to_image_recall@k` and `COLUMN/mean_recall`; their
        means over the columns, without `COLUMN/`; `A->B/recall@k`, captions of column A as queries to those of column
        B, and `cross_lingual_recall@k`, its mean over all ordered pairs.

    Raises:
        DataError: a single column; or no picture has captions in all of them.
    """
    check_columns(source)
    assert isinstance(source, ColumnedSource)
    names = list(source.columns.captions)
    numbers = torch.tensor([n for position in data.positions.tolist() for n in source.caption_columns(position)])
    pictures = _shared_pictures(data, names, numbers)
    taking_part = torch.isin(data.text_images, pictures)
    chosen = [(taking_part & (numbers == number)).nonzero().squeeze(1) for number in range(len(names))]
    parts = [select_rows(data, pictures, captions) for captions in chosen]
    found = _Found(ks, strict)
    for name, part, captions in zip(names, parts, chosen, strict=True):
        by_image, by_text = rank_pairs(part.image_features, part.text_features, part.positive_keys(positives))
        found.add(f"{name}/image_to_text_", by_image, pictures, len(captions), "captions")
        found.add(f"{name}/text_to_image_", by_text, data.text_images[captions], len(pictures), "pictures")
        found.mean(f"{name}/mean_recall", [metric for metric in found.metrics if metric.startswith(f"{name}/")])
    rule = "id" if positives == "caption" else positives
    for a, b in combinations(range(len(names)), 2):
        keys = PositiveKeys(parts[a].positive_keys(rule).text[:, None], parts[b].positive_keys(rule).text)
        there, back = rank_pairs(parts[a].text_features, parts[b].text_features, keys)
        for one, other, ranking in ((a, b, there), (b, a, back)):
            owners = data.text_images[chosen[one]]
            found.add(f"{names[one]}->{names[other]}/", ranking, owners, len(chosen[other]), "captions")
    for metric in [*(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in ks), "mean_recall"]:
        found.mean(metric, [f"{name}/{metric}" for name in names])
    for k in ks:
        pairs = [f"{one}->{other}/recall@{k}" for one in names for other in names if one != other]
        found.mean(f"cross_lingual_recall@{k}", pairs)
    return TaskResult(found.metrics, Details(found.items, found.means), found.notes + _notes(data, parts, names))


class _Found:
    """Recalls, and what they are made of, as they come in."""

    def __init__(self, ks: Sequence[int], strict: bool) -> None:
        self.ks, self.strict = ks, strict
        self.metrics: Metrics = {}
        self.items: dict[str, Items] = {}
        self.means: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def add(self, prefix: str, ranking: Ranking, pictures: Tensor, gallery: int, what: str) -> None:
        """Recalls of queries that belong to (q,) pictures."""
        if self.strict:
            check_ks(self.ks, gallery, what)
        for k in self.ks:
            name = f"{prefix}recall@{k}"
            self.metrics[name] = hit_share(ranking.ranks, k) if k <= gallery else None
            if k <= gallery:
                self.items[name] = Items(ranking.ranks <= k, pictures)
        if (large := [str(k) for k in self.ks if k > gallery]) and (
            note := f"multilingual: recall at {', '.join(large)} is not defined among {gallery} {what}"
        ) not in self.notes:
            self.notes.append(note)

    def mean(self, name: str, of: list[str]) -> None:
        """Of those that are defined."""
        values = [value for metric in of if (value := self.metrics[metric]) is not None]
        self.metrics[name] = sum(values) / len(values) if values else None
        self.means[name] = of


def _shared_pictures(data: EmbeddedData, names: list[str], numbers: Tensor) -> Tensor:
    """(k,) int64 pictures with a caption in every column."""
    cells = torch.bincount(data.text_images * len(names) + numbers, minlength=len(data.positions) * len(names))
    has = cells.view(-1, len(names)) > 0
    pictures = has.all(dim=1).nonzero().squeeze(1)
    if not len(pictures):
        fewest = names[int(has.sum(dim=0).argmin())]
        raise DataError(
            f"{data.name}: no picture has captions in all of {', '.join(names)}: leave one out, say {fewest}, which "
            f"{int(has.sum(dim=0).min())} of {len(has)} pictures have"
        )
    return pictures


def _notes(data: EmbeddedData, parts: list[EmbeddedData], names: list[str]) -> list[str]:
    pictures = len(parts[0].positions)
    notes = []
    if left := len(data.positions) - pictures:
        notes.append(
            f"multilingual: {left} of {len(data.positions)} pictures lack a caption in some column and are out"
        )
    rates = [f"{len(part.captions) / pictures:.3g} of {name}" for part, name in zip(parts, names, strict=True)]
    if len({len(part.captions) for part in parts}) > 1:
        notes.append(
            f"multilingual: captions of a picture: {', '.join(rates)}; of more captions one is found more easily"
        )
    return notes
