"""One way through all tiles of a batch, and the sums that are gathered on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmcontrast.losses.tiles import AllReduce, Counts, Tiles, blocks, not_weighted, spread_out, targets_of

LEAST = 1e-30
"""Sums under this have lost digits; then everything is done again with running maxima."""


@dataclass(frozen=True)
class TileSettings:
    """How a batch is cut, and what its pairs count; see `tiled_info_nce`."""

    tiles: Tiles | None
    offset: int
    size: int
    keep: bool
    safe: bool
    all_reduce: AllReduce | None


@dataclass
class Sums:
    """What is known of all rows (b,) or columns (n,): sum of e^(logit - shift), and of targets and their logits."""

    total: Tensor
    shift: Tensor
    targets: Tensor | None = None
    wanted: Tensor | None = None

    @classmethod
    def zeros(cls, count: int, like: Tensor, shift: Tensor) -> Sums:
        """Of `count` rows or columns."""
        return cls(like.new_zeros(count), shift)

    def aim(self, part: slice, targets: Tensor, logits: Tensor, dim: int) -> None:
        """Add the targets of a tile."""
        count, wanted = self._aimed()
        count[part] += targets.sum(dim)
        wanted[part] += (targets * logits).sum(dim)

    def aim_few(self, start: int, places: Tensor, targets: Tensor, logits: Tensor) -> None:
        """Add the targets (k,) of a few pairs, whose rows or columns are start + places (k,)."""
        count, wanted = self._aimed()
        targets = targets.to(logits.dtype)
        count.index_add_(0, start + places, targets)
        wanted.index_add_(0, start + places, targets * logits)

    def _aimed(self) -> tuple[Tensor, Tensor]:
        if self.targets is None or self.wanted is None:
            self.targets, self.wanted = torch.zeros_like(self.total), torch.zeros_like(self.total)
        return self.targets, self.wanted

    def raise_to(self, part: slice, logits: Tensor, dim: int) -> Tensor:
        """Lift the shift of a part to the maximum of a tile, and return e^(logit - shift)."""
        top = torch.maximum(self.shift[part], logits.amax(dim))
        self.total[part] *= (self.shift[part] - top).exp()
        self.shift[part] = top
        return (logits - top.unsqueeze(dim)).exp_()

    def reduce(self, all_reduce: AllReduce, *, aims: bool) -> None:
        """Complete sums with running maxima over the ranks; `aims`: whether any rank may have targets."""
        top = all_reduce(self.shift.clone(), "max")
        self.total *= (self.shift - top).exp()
        self.shift = top
        if not aims:
            self.total = all_reduce(self.total, "sum")
            return
        nothing = torch.zeros_like(self.total)
        parts = self.total, self.targets, self.wanted
        summed = all_reduce(torch.stack([nothing if part is None else part for part in parts]), "sum")
        self.total, self.targets, self.wanted = summed

    @property
    def sound(self) -> bool:
        """Whether nothing over- or underflowed."""
        return bool((self.total.isfinite() & (self.total > LEAST)).all())

    def losses(self, part: slice, own: Tensor) -> Tensor:
        """Cross-entropy of the rows or columns `part` whose own logits are `own`."""
        logsumexp = self.shift.expand_as(self.total)[part] + self.total[part].log()
        if self.targets is None or self.wanted is None:
            return logsumexp - own
        return logsumexp - (own + self.wanted[part]) / (1 + self.targets[part])

    def share(self, part: slice) -> Tensor | float:
        """Of one target among all of its row or column."""
        return 1.0 if self.targets is None else 1 / (1 + self.targets[part])


@dataclass(frozen=True)
class Few:
    """The pairs of a tile that count otherwise than plainly, where they are few: k weights e^b and targets a view."""

    where: Tensor
    image: Tensor
    text: Tensor
    image_targets: Tensor | None
    text_targets: Tensor | None

    @classmethod
    def of(cls, counts: Counts, rows: slice, columns: slice, like: Tensor) -> Few:
        """As a tile says, own pairs and targets unweighted."""
        assert counts.where is not None
        where = counts.where.to(torch.int32)
        width = columns.stop - columns.start
        own = where // width + rows.start == where % width + columns.start

        def targets(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.masked_fill(own, 0)  # as small as they came, like the weights

        def weights(log_weights: Tensor | None, positives: Tensor | None) -> Tensor:
            if log_weights is None:
                return like.new_ones(len(where))
            plain = own if positives is None else own | (positives > 0)
            # Kept until the backward pass, so in half precision where they came in it.
            return log_weights.to(like.dtype).exp().masked_fill_(plain, 1.0).to(log_weights.dtype)

        image, image_targets = weights(counts.log_weights, counts.positives), targets(counts.positives)
        text, text_targets = image, image_targets
        if counts.text_log_weights is not counts.log_weights or counts.text_positives is not counts.positives:
            text = weights(counts.text_log_weights, counts.text_positives)
        if counts.text_positives is not counts.positives:
            text_targets = targets(counts.text_positives)
        return cls(where, image, text, image_targets, text_targets)

    def places(self, tile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Places in the flattened tile, rows and columns, for indexing."""
        where = self.where.long()
        return where, where // tile.shape[1], where % tile.shape[1]


@dataclass
class Tile:
    """Scaled similarities of a rectangle of pairs.

    Attributes:
        logits: (r, c) bare.
        image, text: (r, c) weighted, of the two views; one tensor where they agree, and `logits` where they are bare.
        image_targets, text_targets: (r, c) of the two views, or None.
        few: in place of all these where few pairs count otherwise than plainly.
    """

    logits: Tensor
    image: Tensor
    text: Tensor
    image_targets: Tensor | None = None
    text_targets: Tensor | None = None
    few: Few | None = None

    @property
    def plain(self) -> bool:
        """Whether all pairs count plainly, or all but a few."""
        bare = self.image is self.logits and self.text is self.logits
        return bare and self.image_targets is None and self.text_targets is None


@dataclass
class TilePass:
    """All tiles of a batch, made one after the other in the same two pieces of memory."""

    image: Tensor
    text: Tensor
    scale: Tensor
    settings: TileSettings
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Tensor, text: Tensor, scale: Tensor, settings: TileSettings) -> TilePass:
        """In float32 at least."""
        wide = torch.promote_types(image.dtype, torch.float32)
        return cls(image.to(wide), text.to(wide), scale.to(wide), settings)

    @property
    def own(self) -> slice:
        """The captions of this rank's pictures."""
        return slice(self.settings.offset, self.settings.offset + len(self.image))

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of all tiles."""
        for i in blocks(len(self.image), self.settings.size):
            for j in blocks(len(self.text), self.settings.size):
                yield i, j

    def buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """Memory of that name for a tile."""
        if name not in self.buffers:
            size = self.settings.size
            self.buffers[name] = self.image.new_empty(size * size)
        return self.buffers[name][: rows * columns].view(rows, columns)

    def tile(self, i: slice, j: slice, out: Tensor | None = None, *, safe: bool = False) -> Tile:
        """One tile, which may be overwritten; with `safe` few pairs are spread out over it."""
        logits = self.bare(i, j, out)
        if self.settings.tiles is None:
            logits.mul_(self.scale)
            return Tile(logits, logits, logits)
        own = slice(i.start + self.settings.offset, i.stop + self.settings.offset), j
        found = self.settings.tiles(*own, logits)
        logits.mul_(self.scale)
        if found.where is not None and not safe:
            return Tile(logits, logits, logits, few=Few.of(found, *own, logits))
        found = spread_out(found, logits)
        image = text = logits
        if found.log_weights is not None:
            image = text = not_weighted(logits + found.log_weights, logits, found.positives, own)
        if found.text_log_weights is not found.log_weights or found.text_positives is not found.positives:
            text = logits
            if found.text_log_weights is not None:
                text = not_weighted(logits + found.text_log_weights, logits, found.text_positives, own)
        image_targets = None if found.positives is None else targets_of(found.positives, logits, own)
        text_targets = image_targets
        if found.text_positives is not found.positives:
            text_targets = None if found.text_positives is None else targets_of(found.text_positives, logits, own)
        return Tile(logits, image, text, image_targets, text_targets)

    def bare(self, i: slice, j: slice, out: Tensor | None = None) -> Tensor:
        """Cosines of a tile, in `out` or in memory that the next tile takes as well."""
        cosines = self.buffer("logits", i.stop - i.start, j.stop - j.start) if out is None else out
        return torch.mm(self.image[i], self.text[j].T, out=cosines)
