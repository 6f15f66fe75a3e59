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

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcontrast.losses.kernel import LossKernel, takes_triton
from mmcontrast.losses.tile_pass import Few, Sums, TilePass, TileSettings
from mmcontrast.losses.tiles import AllReduce, Tiles, row_products, tile_size

HEADROOM = 60.0
"""Unit vectors bound the logits by the scale, so e^logit needs no running maximum, only a common shift to this bound:
float32 holds e^88, and sums and log-weights need some room."""


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
    kernel: LossKernel = "torch",
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
        kernel: "triton" for fused kernels on a GPU, to which `keep` and `safe` are nothing (they keep no tiles, and
            always take maxima); float64 takes torch all the same.

    Returns:
        Scalar, float32 at least: the mean over this rank's b pairs. Gradients are those of the sum of all ranks' losses
        by this rank's pictures, and this rank's share of those by all captions and by the scale: as features are
        gathered with gradients and parameters averaged, each rank's `backward` must be of the same multiple of it.
    """
    scale = torch.as_tensor(logit_scale, dtype=image_features.dtype, device=image_features.device)
    settings = TileSettings(tiles, offset, tile_size(image_features.device, size), keep, safe, all_reduce)
    if takes_triton(kernel, image_features, all_text_features):
        from mmcontrast.losses.triton_info_nce import TritonInfoNCE  # needs the package triton

        fused: Tensor = TritonInfoNCE.apply(image_features, all_text_features, scale, settings)
        return fused
    loss: Tensor = _TiledInfoNCE.apply(image_features, all_text_features, scale, settings)
    return loss


def _sums(through: TilePass, safe: bool, kept: list[Tensor | None] | None, few: list[Few | None]) -> tuple[Sums, Sums]:
    """Sums of all rows and columns; bare tiles go into `kept` as e^(logit - shift), their few into `few`."""
    image, text = through.image, through.text
    if safe:
        lowest = torch.finfo(image.dtype).min
        rows, columns = (Sums.zeros(len(x), image, x.new_full((len(x),), lowest)) for x in (image, text))
    else:
        shift = (through.scale - HEADROOM).clamp(min=0.0)
        rows, columns = (Sums.zeros(len(x), image, shift) for x in (image, text))
    for i, j in through.places():
        out = None if kept is None else image.new_empty(i.stop - i.start, j.stop - j.start)
        tile = through.tile(i, j, out, safe=safe)
        few.append(tile.few)
        if tile.image_targets is not None:
            rows.aim(i, tile.image_targets, tile.logits, 1)
        if tile.text_targets is not None:
            columns.aim(j, tile.text_targets, tile.logits, 0)
        if safe:
            rows.total[i] += rows.raise_to(i, tile.image, 1).sum(1)
            columns.total[j] += columns.raise_to(j, tile.text, 0).sum(0)
        elif tile.few is not None:
            _add_few(tile.few, tile.logits, rows, columns, (i, j))
        else:
            of_rows = _exp(tile.image, rows.shift)
            rows.total[i] += of_rows.sum(1)
            of_columns = of_rows if tile.text is tile.image else _exp(tile.text, columns.shift)
            columns.total[j] += of_columns.sum(0)
        if kept is not None:
            kept.append(tile.logits if tile.plain else None)
    return rows, columns


def _exp(logits: Tensor, shift: Tensor) -> Tensor:
    """e^(logit - shift), in place."""
    return logits.sub_(shift).exp_()


def _add_few(few: Few, logits: Tensor, rows: Sums, columns: Sums, place: tuple[slice, slice]) -> None:
    """Add a tile with a few weighted pairs; `logits` become e^(logit - shift), bare."""
    (i, j), (where, row, column) = place, few.places(logits)
    flat = logits.view(-1)
    if few.image_targets is not None:
        rows.aim_few(i.start, row, few.image_targets, flat[where])
    if few.text_targets is not None:
        columns.aim_few(j.start, column, few.text_targets, flat[where])
    _exp(logits, rows.shift)
    bare = flat[where]
    # Putting weighted terms in place and summing anew loses no digits, as taking the bare ones away again would.
    flat.index_copy_(0, where, bare * few.image)
    rows.total[i] += logits.sum(1)
    if few.text is not few.image:
        flat.index_copy_(0, where, bare * few.text)
    columns.total[j] += logits.sum(0)
    flat.index_copy_(0, where, bare)


class _TiledInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, settings: TileSettings) -> Tensor:
        through = TilePass.of(image, text, scale, settings)
        # Asking whether the quick way went well makes a GPU wait, and several ranks would have to agree.
        safe = settings.safe or image.device.type != "cpu" or settings.all_reduce is not None
        kept: list[Tensor | None] | None = [] if settings.keep and not safe else None
        few: list[Few | None] = []
        rows, columns = _sums(through, safe, kept, few)
        if not safe and not (rows.sound and columns.sound):
            safe, kept, few = True, None, []
            rows, columns = _sums(through, safe, kept, few)
        if settings.all_reduce is not None:
            columns.reduce(settings.all_reduce, aims=settings.tiles is not None)
        own = through.own
        true = row_products(through.image, through.text[own], settings.size) * through.scale
        if all(listed is not None for listed in few):  # lists say all, and what they were made from takes memory
            settings = replace(settings, tiles=None)
        ctx.settings, ctx.rows, ctx.columns, ctx.safe, ctx.few = settings, rows, columns, safe, few
        ctx.save_for_backward(image, text, scale, *(kept or []))
        both = rows.losses(slice(None), true) + columns.losses(own, true)
        return both.mean().div(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        image, text, scale, *kept = ctx.saved_tensors
        through, rows, columns = TilePass.of(image, text, scale, ctx.settings), ctx.rows, ctx.columns
        weight = upstream.to(through.image.dtype) / (2 * len(image))  # of one row or column in the loss
        wanted = (weight * (rows.share(slice(None)) + columns.share(through.own))).expand(len(image)).unsqueeze(1)
        image_grad = through.text[through.own] * -wanted
        text_grad = torch.zeros_like(through.text)
        torch.mul(through.image, -wanted, out=text_grad[through.own])
        for number, (i, j) in enumerate(through.places()):
            few, terms = ctx.few[number], kept[number] if kept else None
            if terms is not None or few is not None:
                if terms is None:
                    terms = _exp(through.bare(i, j).mul_(through.scale), rows.shift)
                slope = _spread(terms, through, rows, columns, (i, j), weight)
                if few is not None:
                    _correct_few(few, slope, terms, rows, columns, (i, j), weight)
            else:
                slope = _slope(through, rows, columns, (i, j), weight, ctx.safe)
            image_grad[i].addmm_(slope, through.text[j])
            text_grad[j].addmm_(slope.T, through.image[i])
        # Before the factor: d logit / d scale is the cosine.
        scale_grad = row_products(image_grad, through.image, ctx.settings.size).sum()
        return (
            image_grad.mul_(through.scale).to(image.dtype),
            text_grad.mul_(through.scale).to(text.dtype),
            scale_grad.to(scale.dtype),
            None,
        )


def _spread(
    exponentials: Tensor, through: TilePass, rows: Sums, columns: Sums, place: tuple[slice, slice], weight: Tensor
) -> Tensor:
    """e^(logit - shift) to the gradient by the logits: where both views agree, one product makes both."""
    factor = through.buffer("factor", *exponentials.shape)
    torch.add((weight / rows.total[place[0]])[:, None], (weight / columns.total[place[1]])[None], out=factor)
    return factor.mul_(exponentials)


def _correct_few(
    few: Few, slope: Tensor, terms: Tensor, rows: Sums, columns: Sums, place: tuple[slice, slice], weight: Tensor
) -> None:
    """Put the gradient of the weighted pairs in place of what it were for bare ones."""
    (i, j), (where, row, column) = place, few.places(terms)
    bare = terms.view(-1)[where]
    right = bare * few.image * (weight / rows.total[i])[row] + bare * few.text * (weight / columns.total[j])[column]
    if few.image_targets is not None:
        right -= few.image_targets * (weight * rows.share(i)).expand(i.stop - i.start)[row]
    if few.text_targets is not None:
        right -= few.text_targets * (weight * columns.share(j)).expand(j.stop - j.start)[column]
    slope.view(-1).index_copy_(0, where, right)


def _slope(
    through: TilePass, rows: Sums, columns: Sums, place: tuple[slice, slice], weight: Tensor, safe: bool
) -> Tensor:
    """Gradient of the loss by the logits of a tile, apart from that of each row's own pair as a target."""
    i, j = place
    tile = through.tile(i, j, safe=safe)
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
