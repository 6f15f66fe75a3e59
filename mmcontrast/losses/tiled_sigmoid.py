"""The sigmoid loss in tiles: no pair needs to know of another, so loss and gradients come in one pass.

6 n^2 d operations, as the whole matrix takes, and O(n d) memory in place of several (n, n) matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcontrast.losses.kernel import LossKernel, takes_triton
from mmcontrast.losses.tiles import (
    Counts,
    Tiles,
    blocks,
    not_weighted,
    own_pairs,
    row_products,
    spread_out,
    targets_of,
    tile_size,
)


def tiled_sigmoid_loss(
    image_features: Tensor,
    all_text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    tiles: Tiles | None = None,
    offset: int = 0,
    size: int | None = None,
    kernel: LossKernel = "torch",
) -> Tensor:
    """The loss of `sigmoid_loss`, with the same gradients, without a matrix of all similarities.

    Args:
        image_features: (b, d) L2-normalised, of this rank.
        all_text_features: (n, d), of all ranks; row offset + i belongs to picture i.
        logit_scale, logit_bias: scalars.
        tiles: what pairs count in the pictures' view, see `Tiles`; None for the plain loss.
        offset: place of this rank's first row among all.
        size: pictures and captions of a tile; None takes what suits the device.
        kernel: "triton" for fused kernels on a GPU; float64 takes torch all the same.

    Returns:
        Scalar, float32 at least.
    """
    scale, bias = (
        torch.as_tensor(x, dtype=image_features.dtype, device=image_features.device) for x in (logit_scale, logit_bias)
    )
    inputs = image_features, all_text_features, scale, bias
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    size = tile_size(image_features.device, size)
    if takes_triton(kernel, image_features, all_text_features):
        from mmcontrast.losses.triton_sigmoid import TritonSigmoid  # needs the package triton

        fused: Tensor = TritonSigmoid.apply(*inputs, tiles, offset, size, wanted)
        return fused
    loss: Tensor = _TiledSigmoid.apply(*inputs, tiles, offset, size, wanted)
    return loss


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        tiles: Tiles | None,
        offset: int,
        size: int,
        wanted: bool,
    ) -> Tensor:
        wide = torch.promote_types(image.dtype, torch.float32)
        x, y, factor, shift = (value.to(wide) for value in (image, text, scale, bias))
        total, bias_grad = x.new_zeros(()), x.new_zeros(())
        image_grad, text_grad = torch.zeros_like(x), torch.zeros_like(y)
        tile_memory, memory = x.new_empty(2, size * size + 3)
        for i in blocks(len(x), size):
            scaled = x[i] * factor
            for j in blocks(len(y), size):
                cosines = tile_memory[: (i.stop - i.start) * (j.stop - j.start)].view(i.stop - i.start, -1)
                place = slice(i.start + offset, i.stop + offset), j
                if tiles is None:  # logits at once: a pass over the tile counts here
                    torch.addmm(shift, scaled, y[j].T, out=cosines)
                    loss, slope = _tile(cosines, None, place, memory)
                else:
                    torch.mm(x[i], y[j].T, out=cosines)
                    found = tiles(*place, cosines)
                    loss, slope = _tile(cosines.mul_(factor).add_(shift), spread_out(found, cosines), place, memory)
                total += loss
                if wanted:
                    bias_grad += slope.sum()
                    image_grad[i].addmm_(slope, y[j])
                    text_grad[j].addmm_(slope.T, x[i])
        # Before the factor: d logit / d scale is the cosine.
        scale_grad = row_products(image_grad, x, size).sum()
        gradients = [image_grad.mul_(factor), text_grad.mul_(factor), scale_grad, bias_grad]
        ctx.save_for_backward(
            *(g.div_(len(x)).to(v.dtype) for g, v in zip(gradients, (image, text, scale, bias), strict=True))
        )
        return total / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *((upstream * gradient).to(gradient.dtype) for gradient in ctx.saved_tensors), None, None, None, None


def softplus_sum(logits: Tensor, memory: Tensor) -> Tensor:
    """Sum of log(1 + e^a) over a tile, which becomes sigmoid(a); `memory` holds 3 numbers more than it.

    With t = min(s, 1 - s) of s = sigmoid(a) that is max(a, 0) - log(1 - t), without an exponential of its own, and four
    pairs share a logarithm: (1 - t)(1 - u) is 1 - (t + u - t u), which keeps the digits of small t and u. torch's log1p
    takes as long as a product of 512 dimensions on a CPU; its log is fast, and what log(1 - t) loses by rounding 1 - t
    to v is to first order (t - (1 - v)) / v.
    """
    count = logits.numel()
    quarter = -(-count // 4)
    flat = memory[: 4 * quarter]
    less = flat[:count].view(logits.shape)
    total: Tensor = torch.clamp(logits, min=0, out=less).sum()
    said = logits.sigmoid_()
    torch.neg(said, out=less).add_(1)
    torch.minimum(less, said, out=less)
    flat[count:] = 0.0
    half = flat[: 2 * quarter]
    half.addcmul_(half, flat[2 * quarter :], value=-1).add_(flat[2 * quarter :])
    left, rest, lost, _ = flat.view(4, quarter)
    left.addcmul_(left, rest, value=-1).add_(rest)
    torch.neg(left, out=rest).add_(1)
    torch.sub(rest, 1, out=lost).add_(left)  # both are exact
    total += lost.div_(rest).sum()
    return total.sub_(rest.log_().sum())


def _tile(logits: Tensor, found: Counts | None, place: tuple[slice, slice], memory: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss of a tile, and its gradient by the logits; softplus(a) - t a has the target t."""
    targets = None if found is None or found.positives is None else targets_of(found.positives, logits, place)
    if found is not None and found.log_weights is not None:
        logits = not_weighted(logits + found.log_weights, logits, found.positives, place)
    # A pair's own loss is softplus(-a), and -sigmoid(-a) its slope: differences from 1 would lose the digits of both.
    own = own_pairs(logits, *place)
    if own is not None:
        own.neg_()
    wanted: Tensor | float = 0.0
    if targets is not None:
        wanted = (targets * logits.masked_fill(targets == 0, 0.0)).sum()  # masked: 0 * -inf would be nan
    loss, slope = softplus_sum(logits, memory) - wanted, logits
    if own is not None:
        own.neg_()
    return loss, slope if targets is None else slope.sub_(targets)
