"""Symmetric InfoNCE by the Triton kernels: what `tiled_info_nce` does, with nothing between products but sums in SRAM.

Forward: a kernel multiplies a block and leaves only its log-sum-exps. Backward: a kernel multiplies it again and leaves
its slopes, two more make gradients of them: 8 n^2 d operations, and O(n d) memory beside one rectangle of slopes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcontrast.losses.tile_pass import Sums, TileSettings
from mmcontrast.losses.tiles import Counts
from mmcontrast.losses.triton_launch import PLAIN, Rectangles, less_targets


class TritonInfoNCE(torch.autograd.Function):
    """See `tiled_info_nce`; of the settings, `keep` is not used, and maxima are always taken."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, settings: TileSettings) -> Tensor:
        """The loss of (b, d) pictures and (n, d) captions."""
        through = Rectangles(image, text, scale, settings.offset, settings.size)
        # A shift may be the whole log-sum-exp: then a sum is 1.
        nothing = [through.scale.new_full((len(x),), -torch.inf) for x in (through.image, through.text)]
        rows, columns = (Sums(torch.ones_like(x), x) for x in nothing)
        lists: list[Counts | None] = []
        for i, j in through.places():
            counted = PLAIN
            if settings.tiles is not None:
                found, cosines, counted = through.counted(settings.tiles, i, j)
                lists.append(None if found.where is None else found)
                logits = cosines.mul_(through.scale)
                if counted.image_targets is not None:
                    rows.aim(i, counted.image_targets, logits, 1)
                if counted.text_targets is not None:
                    columns.aim(j, counted.text_targets, logits, 0)
            of_rows, of_columns = through.sums(i, j, counted)
            rows.shift[i] = torch.logaddexp(rows.shift[i], of_rows)
            columns.shift[j] = torch.logaddexp(columns.shift[j], of_columns)
        if settings.all_reduce is not None:
            columns.reduce(settings.all_reduce, aims=settings.tiles is not None)
        true = (through.image.float() * through.text[through.own].float()).sum(1) * through.scale
        ctx.settings, ctx.rows, ctx.columns, ctx.lists = settings, rows, columns, lists
        ctx.save_for_backward(image, text, scale)
        both = rows.losses(slice(None), true) + columns.losses(through.own, true)
        return both.mean().div(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of features and scale."""
        image, text, scale = ctx.saved_tensors
        settings, rows, columns = ctx.settings, ctx.rows, ctx.columns
        through = Rectangles(image, text, scale, settings.offset, settings.size)
        of_rows, of_columns = (sums.shift + sums.total.log() for sums in (rows, columns))
        image_grad, text_grad = (torch.zeros_like(x, dtype=torch.float32) for x in (through.image, through.text))
        for number, (i, j) in enumerate(through.places()):
            counted = PLAIN
            if settings.tiles is not None:
                _, _, counted = through.counted(settings.tiles, i, j, ctx.lists[number])
            slopes = through.info_nce_slopes(i, j, counted, of_rows, of_columns)
            place = through.in_batch(i, j)
            if rows.targets is not None:
                less_targets(slopes, counted.image_targets, rows.share(i).unsqueeze(1), place)
            if columns.targets is not None:
                less_targets(slopes, counted.text_targets, columns.share(j).unsqueeze(0), place)
            through.add_gradients(i, j, slopes, image_grad, text_grad)
        weight = upstream.float() / (2 * len(image))  # of one row or column in the loss
        scale_grad = weight * (image_grad * through.image).sum()  # d logit / d scale is the cosine
        factor = weight * through.scale
        return (
            image_grad.mul_(factor).to(image.dtype),
            text_grad.mul_(factor).to(text.dtype),
            scale_grad.to(scale.dtype).view(scale.shape),
            None,
        )
