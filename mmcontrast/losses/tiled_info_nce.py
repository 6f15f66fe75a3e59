"""Symmetric InfoNCE in tiles: exact, in O(n d) memory, and faster than the whole matrix.

One tile of similarities serves both directions: its row sums belong to the pictures' softmax, its column sums to the
captions'. The backward pass makes the tiles again, or reads them where they were kept: 8 n^2 d operations without any
(n, n) matrix, 6 n^2 d with one, against 6 n^2 d and five passes over it in the usual way (two products, two softmaxes).
With several processes each needs the captions of all, but only its own pictures: half of what is usually computed and
gathered.

References: the gradient through recomputed tiles is that of FlashAttention (Dao et al. 2022, algorithm 4), the bounded
memory that of Inf-CLIP (Cheng et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcontrast.losses.tiles import AllReduce, Tiles, blocks, not_weighted, targets_of, tile_size

HEADROOM = 60.0
"""Unit vectors bound the logits by the scale, so e^logit needs no running maximum, only a common shift to this bound:
float32 holds e^88, and sums and log-weights need some room."""
LEAST = 1e-30
"""Sums under this have lost digits; then everything is done again with running maxima."""


def tiled_info_nce(
    image_features: Tensor,
    all_text_features: Tensor,
    logit_scale: Tensor | float,
    *,
    tiles: Tiles | None = None,
    offset: int = 0,
    size: int | None = None,
    keep: bool = False,
    safe: bool = False,
    all_reduce: AllReduce | None = None,
) -> Tensor:
    """The loss of `symmetric_info_nce`, with the same gradients, without a matrix of all similarities.

    Args:
        image_features: (b, d) L2-normalised, of this rank.
        all_text_features: (n, d), of all ranks; row offset + i belongs to picture i.
        logit_scale: scalar that multiplies the cosines.
        tiles: what pairs count, see `Tiles`; None for the plain loss.
        offset: place of this rank's first row among all.
        size: pictures and captions of a tile; None takes what suits the device.
        keep: keep 4 b n bytes instead of computing the tiles twice.
        safe: running maxima from the start, for log-weights without bound or vectors that are not normalised. On a CPU
            that happens by itself where it must.
        all_reduce: sum or maximum over the ranks; needed where b < n.

    Returns:
        Scalar, float32 at least: the mean over this rank's b pairs. Gradients are those of the sum of all ranks' losses
        by this rank's pictures, and this rank's share of those by all captions and by the scale: as features are
        gathered with gradients and parameters averaged, each rank's `backward` must be of the same multiple of it.
    """
    scale = torch.as_tensor(logit_scale, dtype=image_features.dtype, device=image_features.device)
    settings = _Settings(tiles, offset, tile_size(image_features.device, size), keep, safe, all_reduce)
    loss: Tensor = _TiledInfoNCE.apply(image_features, all_text_features, scale, settings)
    return loss


@dataclass(frozen=True)
class _Settings:
    tiles: Tiles | None
    offset: int
    size: int
    keep: bool
    safe: bool
    all_reduce: AllReduce | None


@dataclass
class _Sums:
    """What is known of all rows (b,) or columns (n,): sum of e^(logit - shift), and of targets and their logits."""

    total: Tensor
    shift: Tensor
    targets: Tensor | None = None
    wanted: Tensor | None = None

    @classmethod
    def zeros(cls, count: int, like: Tensor, shift: Tensor) -> _Sums:
        return cls(like.new_zeros(count), shift)

    def aim(self, part: slice, targets: Tensor, logits: Tensor, dim: int) -> None:
        """Add the targets of a tile."""
        if self.targets is None or self.wanted is None:
            self.targets, self.wanted = torch.zeros_like(self.total), torch.zeros_like(self.total)
        self.targets[part] += targets.sum(dim)
        self.wanted[part] += (targets * logits).sum(dim)

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


@dataclass
class _Tile:
    rows: slice
    columns: slice
    logits: Tensor
    image: Tensor
    text: Tensor
    """Weighted logits of the two views; one tensor where they agree."""
    image_targets: Tensor | None
    text_targets: Tensor | None


@dataclass
class _Pass:
    """All tiles of a batch, made one after the other in the same two pieces of memory."""

    image: Tensor
    text: Tensor
    scale: Tensor
    settings: _Settings
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Tensor, text: Tensor, scale: Tensor, settings: _Settings) -> _Pass:
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
        if name not in self.buffers:
            size = self.settings.size
            self.buffers[name] = self.image.new_empty(size * size)
        return self.buffers[name][: rows * columns].view(rows, columns)

    def tile(self, i: slice, j: slice, out: Tensor | None = None) -> _Tile:
        """One tile; without weights of its own it may be overwritten."""
        settings = self.settings
        rows = slice(i.start + settings.offset, i.stop + settings.offset)
        logits = self.buffer("logits", i.stop - i.start, j.stop - j.start) if out is None else out
        torch.mm(self.image[i], self.text[j].T, out=logits)
        if settings.tiles is None:
            logits.mul_(self.scale)
            return _Tile(i, j, logits, logits, logits, None, None)
        found = settings.tiles(rows, j, logits)
        logits.mul_(self.scale)
        own = rows, j
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
        return _Tile(i, j, logits, image, text, image_targets, text_targets)


def _sums(through: _Pass, safe: bool, kept: list[Tensor] | None) -> tuple[_Sums, _Sums]:
    """Sums of all rows and columns; plain tiles are put into `kept` as e^(logit - shift)."""
    image, text = through.image, through.text
    if safe:
        lowest = torch.finfo(image.dtype).min
        rows, columns = (_Sums.zeros(len(x), image, x.new_full((len(x),), lowest)) for x in (image, text))
    else:
        shift = (through.scale - HEADROOM).clamp(min=0.0)
        rows, columns = (_Sums.zeros(len(x), image, shift) for x in (image, text))
    for i, j in through.places():
        out = None if kept is None else image.new_empty(i.stop - i.start, j.stop - j.start)
        tile = through.tile(i, j, out)
        if tile.image_targets is not None:
            rows.aim(i, tile.image_targets, tile.logits, 1)
        if tile.text_targets is not None:
            columns.aim(j, tile.text_targets, tile.logits, 0)
        if safe:
            rows.total[i] += rows.raise_to(i, tile.image, 1).sum(1)
            columns.total[j] += columns.raise_to(j, tile.text, 0).sum(0)
            continue
        of_rows = _exp(tile.image, rows.shift)
        rows.total[i] += of_rows.sum(1)
        of_columns = of_rows if tile.text is tile.image else _exp(tile.text, columns.shift)
        columns.total[j] += of_columns.sum(0)
        if kept is not None:
            kept.append(of_rows)
    return rows, columns


def _exp(logits: Tensor, shift: Tensor) -> Tensor:
    """e^(logit - shift), in place."""
    return logits.sub_(shift).exp_()


class _TiledInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, settings: _Settings) -> Tensor:
        through = _Pass.of(image, text, scale, settings)
        # Asking whether the quick way went well makes a GPU wait, and several ranks would have to agree.
        safe = settings.safe or image.device.type != "cpu" or settings.all_reduce is not None
        kept: list[Tensor] | None = [] if settings.keep and settings.tiles is None and not safe else None
        rows, columns = _sums(through, safe, kept)
        if not safe and not (rows.sound and columns.sound):
            safe, kept = True, None
            rows, columns = _sums(through, safe, kept)
        if settings.all_reduce is not None:
            columns.reduce(settings.all_reduce, aims=settings.tiles is not None)
        own = through.own
        true = (through.image * through.text[own]).sum(1) * through.scale
        ctx.settings, ctx.rows, ctx.columns, ctx.safe = settings, rows, columns, safe
        ctx.save_for_backward(image, text, scale, *(kept or []))
        both = rows.losses(slice(None), true) + columns.losses(own, true)
        return both.mean().div(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        image, text, scale, *kept = ctx.saved_tensors
        through, rows, columns = _Pass.of(image, text, scale, ctx.settings), ctx.rows, ctx.columns
        weight = upstream.to(through.image.dtype) / (2 * len(image))  # of one row or column in the loss
        wanted = (weight * (rows.share(slice(None)) + columns.share(through.own))).expand(len(image)).unsqueeze(1)
        image_grad = -wanted * through.text[through.own]
        text_grad = torch.zeros_like(through.text)
        text_grad[through.own] = -wanted * through.image
        for number, (i, j) in enumerate(through.places()):
            if kept:
                slope = _spread(kept[number], through, rows, columns, (i, j), weight)
            else:
                slope = _slope(through, rows, columns, (i, j), weight, ctx.safe)
            image_grad[i].addmm_(slope, through.text[j])
            text_grad[j].addmm_(slope.T, through.image[i])
        scale_grad = (image_grad * through.image).sum()  # before the factor: d logit / d scale is the cosine
        return (
            image_grad.mul_(through.scale).to(image.dtype),
            text_grad.mul_(through.scale).to(text.dtype),
            scale_grad.to(scale.dtype),
            None,
        )


def _spread(
    exponentials: Tensor, through: _Pass, rows: _Sums, columns: _Sums, place: tuple[slice, slice], weight: Tensor
) -> Tensor:
    """e^(logit - shift) to the gradient by the logits: where both views agree, one product makes both."""
    factor = through.buffer("factor", *exponentials.shape)
    torch.add((weight / rows.total[place[0]])[:, None], (weight / columns.total[place[1]])[None], out=factor)
    return factor.mul_(exponentials)


def _slope(
    through: _Pass, rows: _Sums, columns: _Sums, place: tuple[slice, slice], weight: Tensor, safe: bool
) -> Tensor:
    """Gradient of the loss by the logits of a tile, apart from that of each row's own pair as a target."""
    i, j = place
    tile = through.tile(i, j)
    if safe:
        of_rows = (tile.image - (rows.shift[i] + rows.total[i].log())[:, None]).exp_()
        of_columns = (tile.text - (columns.shift[j] + columns.total[j].log())[None]).exp_()
        slope = of_rows.add_(of_columns).mul_(weight)
    elif tile.text is tile.image:
        slope = _spread(_exp(tile.image, rows.shift), through, rows, columns, place, weight)
    else:
        of_rows = _exp(tile.image, rows.shift).mul_((weight / rows.total[i])[:, None])
        slope = _exp(tile.text, columns.shift).mul_((weight / columns.total[j])[None]).add_(of_rows)
    if tile.image_targets is not None:
        slope -= tile.image_targets * (weight * rows.share(i)).unsqueeze(1)
    if tile.text_targets is not None:
        slope -= tile.text_targets * (weight * columns.share(j)).unsqueeze(0)
    return slope
