"""The sigmoid loss by the Triton kernels: what `tiled_sigmoid_loss` does, loss and gradients in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcontrast.losses.tiles import Tiles
from mmcontrast.losses.triton_launch import PLAIN, Rectangles


class TritonSigmoid(torch.autograd.Function):
    """See `tiled_sigmoid_loss`; `wanted` says whether any gradient is."""

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
        """The loss of (b, d) pictures and (n, d) captions."""
        through = Rectangles(image, text, scale, offset, size)
        shift = bias.detach().float().reshape(1)
        total, bias_grad = through.scale.new_zeros(2).unbind()
        image_grad, text_grad = (torch.zeros_like(x, dtype=torch.float32) for x in (through.image, through.text))
        for i, j in through.places():
            counted, logits = PLAIN, None
            if tiles is not None:
                _, cosines, counted = through.counted(tiles, i, j)
                logits = cosines.mul_(through.scale).add_(shift)
            loss, slope_sum, slopes = through.sigmoid_slopes(i, j, counted, shift, wanted=wanted)
            if logits is not None and counted.image_targets is not None:  # softplus(a) - t a has the target t
                loss = loss - (counted.image_targets * logits).sum()
                slope_sum = slope_sum - counted.image_targets.sum()
                if slopes is not None:
                    slopes.sub_(counted.image_targets)
            total += loss
            bias_grad += slope_sum
            if slopes is not None:
                through.add_gradients(i, j, slopes, image_grad, text_grad)
        scale_grad = (image_grad * through.image).sum()  # before the factor: d logit / d scale is the cosine
        gradients = [image_grad.mul_(through.scale), text_grad.mul_(through.scale), scale_grad, bias_grad]
        ctx.save_for_backward(
            *(
                g.div_(len(image)).to(v.dtype).view(v.shape)
                for g, v in zip(gradients, (image, text, scale, bias), strict=True)
            )
        )
        return total / len(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of features, scale and bias."""
        return *((upstream * gradient).to(gradient.dtype) for gradient in ctx.saved_tensors), None, None, None, None
