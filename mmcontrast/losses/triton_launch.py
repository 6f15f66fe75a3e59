"""Rectangles of a batch for the Triton kernels: sizes of blocks, launches, and what the pairs count.

Imported only where kernels run, as `triton_kernels` is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcontrast.losses import triton_kernels as kernels
from mmcontrast.losses.tiles import Counts, Tiles, blocks, own_pairs, spread_out, targets_of


@dataclass(frozen=True)
class Blocks:
    """What one program takes: pictures, captions, dimensions at a time; its warps, and loads under way at once."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


HALF = Blocks(128, 128, 64, 8, 3)
WIDE = Blocks(128, 64, 32, 8, 3)
"""Of bfloat16 and float32, whose parts take thrice the registers. Chosen because they spill no registers (compiled for
compute capability 8.0, 8.9 and 9.0; but for weighted slopes of bfloat16 on 9.0), not by time; and fixed: a choice by
stopwatch could differ between runs, and sums with it."""
LARGEST = 32768
"""Pictures and captions of a rectangle, whose places must be 32-bit integers."""
INTERPRETED = Blocks(16, 32, 16, 1, 1)
"""Small, so that few pairs already make several programs; not square, so that no axis passes for the other."""


@dataclass(frozen=True)
class Counted:
    """What all pairs of a rectangle count: (r, c) log-weights and further targets of both views, or None."""

    image: Tensor | None = None
    text: Tensor | None = None
    image_targets: Tensor | None = None
    text_targets: Tensor | None = None

    @classmethod
    def of(cls, counts: Counts, like: Tensor, place: tuple[slice, slice]) -> Counted:
        """As a tile says, positives unweighted; own pairs are left to the kernels."""
        found = spread_out(counts, like)

        def weights(values: Tensor | None, positives: Tensor | None) -> Tensor | None:
            if values is None or positives is None:
                return None if values is None else values.contiguous()
            return values.masked_fill(positives > 0, 0.0).contiguous()

        def targets(positives: Tensor | None) -> Tensor | None:
            return None if positives is None else targets_of(positives, like, place)

        image, image_targets = weights(found.log_weights, found.positives), targets(found.positives)
        text, text_targets = image, image_targets
        if found.text_log_weights is not found.log_weights or found.text_positives is not found.positives:
            text, text_targets = weights(found.text_log_weights, found.text_positives), targets(found.text_positives)
        return cls(image, text, image_targets, text_targets)


PLAIN = Counted()


class Rectangles:
    """Features as the kernels take them, cut into rectangles.

    Args:
        image, text: (b, d), (n, d); bfloat16 is multiplied as such, all else as float32.
        scale: scalar.
        offset: row offset + i of the captions belongs to picture i.
        size: pictures and captions of a rectangle. With 4096 the slopes, 32 MB in bfloat16, fit the cache of a large
            GPU for the two products that follow, and each of these has a block for nearly every processor.
    """

    def __init__(self, image: Tensor, text: Tensor, scale: Tensor, offset: int, size: int) -> None:
        half = image.dtype == text.dtype == torch.bfloat16
        self.dtype = torch.bfloat16 if half else torch.float32
        self.image, self.text = (x.detach().to(self.dtype).contiguous() for x in (image, text))
        self.scale = scale.detach().float().reshape(1)
        self.offset, self.size = offset, min(size, LARGEST)
        self._slopes: Tensor | None = None
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        self._blocks = INTERPRETED if interpreted else HALF if half else WIDE
        self._fixed = {
            "DIM": image.shape[1],
            "ROWS": self._blocks.rows,
            "COLUMNS": self._blocks.columns,
            "DEPTH": self._blocks.depth,
            "PRECISION": _precision(image.device),
            "WIDE": interpreted,
            "num_warps": self._blocks.warps,
            "num_stages": self._blocks.stages,
        }

    @property
    def own(self) -> slice:
        """The captions of this rank's pictures."""
        return slice(self.offset, self.offset + len(self.image))

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of all rectangles."""
        for i in blocks(len(self.image), self.size):
            for j in blocks(len(self.text), self.size):
                yield i, j

    def in_batch(self, i: slice, j: slice) -> tuple[slice, slice]:
        """A rectangle as ranges of the whole batch."""
        return slice(i.start + self.offset, i.stop + self.offset), j

    def logits(self, i: slice, j: slice, scale: Tensor | None = None) -> Tensor:
        """(r, c) float32, by another scale than the batch's if given."""
        out = self.scale.new_empty(i.stop - i.start, j.stop - j.start)
        grid = self._grid(i, j)
        self._launch(kernels.similarities, grid, *self._features(i, j, scale), out, *out.shape)
        return out

    def counted(self, tiles: Tiles, i: slice, j: slice, known: Counts | None = None) -> tuple[Counts, Tensor, Counted]:
        """What a tile says, the cosines it was told, and what its pairs count; cosines are void where it is known."""
        place = self.in_batch(i, j)
        if known is not None:
            like = self.scale.new_empty(i.stop - i.start, j.stop - j.start)
            return known, like, Counted.of(known, like, place)
        cosines = self.logits(i, j, torch.ones_like(self.scale))
        found = tiles(*place, cosines)
        return found, cosines, Counted.of(found, cosines, place)

    def sums(self, i: slice, j: slice, counted: Counted) -> tuple[Tensor, Tensor]:
        """Log-sum-exp of the rows (r,) and columns (c,) of a rectangle."""
        rows, columns = i.stop - i.start, j.stop - j.start
        grid = self._grid(i, j)
        of_rows, of_columns = self.scale.new_empty(grid[1], rows), self.scale.new_empty(grid[0], columns)
        weights = counted.image, counted.text
        sizes = rows, columns, self._own_shift(i, j)
        self._launch(kernels.info_nce_sums, grid, *self._features(i, j), *weights, of_rows, of_columns, *sizes)
        return of_rows.logsumexp(0), of_columns.logsumexp(0)

    def info_nce_slopes(self, i: slice, j: slice, counted: Counted, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        """(r, c) both softmaxes less the own pairs, in memory that the next rectangle takes as well."""
        out = self._memory(i, j)
        weights = counted.image, counted.text
        sums = of_rows[i].contiguous(), of_columns[j].contiguous()
        sizes = *out.shape, self._own_shift(i, j)
        self._launch(kernels.info_nce_slopes, self._grid(i, j), *self._features(i, j), *weights, *sums, out, *sizes)
        return out

    def sigmoid_slopes(
        self, i: slice, j: slice, counted: Counted, bias: Tensor, *, wanted: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Summed loss of a rectangle, sum of its slopes, and these (r, c), likewise, if wanted."""
        grid = self._grid(i, j)
        losses, sums = self.scale.new_empty(2, grid[0] * grid[1]).unbind()
        out = self._memory(i, j) if wanted else None
        sizes = i.stop - i.start, j.stop - j.start, self._own_shift(i, j)
        self._launch(
            kernels.sigmoid_slopes, grid, *self._features(i, j), bias, counted.image, losses, sums, out, *sizes
        )
        return losses.sum(), sums.sum(), out

    def add_gradients(self, i: slice, j: slice, slopes: Tensor, image_grad: Tensor, text_grad: Tensor) -> None:
        """Slopes (r, c) times features, added to (b, d) and (n, d)."""
        self._add_product(slopes, self.text[j], image_grad[i])
        self._add_product(slopes.T, self.image[i], text_grad[j])

    def _add_product(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        grid = _parts(right.shape[1], self._blocks.columns), _parts(len(left), self._blocks.rows)
        self._launch(kernels.add_product, grid, left, right, out, *left.shape, *left.stride())

    def _grid(self, i: slice, j: slice) -> tuple[int, int]:
        return _parts(i.stop - i.start, self._blocks.rows), _parts(j.stop - j.start, self._blocks.columns)

    def _features(self, i: slice, j: slice, scale: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self.image[i], self.text[j], self.scale if scale is None else scale

    def _own_shift(self, i: slice, j: slice) -> int:
        shift: int = self.offset + i.start - j.start
        return shift

    def _memory(self, i: slice, j: slice) -> Tensor:
        rows, columns = i.stop - i.start, j.stop - j.start
        if self._slopes is None:
            height, width = min(self.size, len(self.image)), min(self.size, len(self.text))
            self._slopes = self.image.new_empty(height * width)
        return self._slopes[: rows * columns].view(rows, columns)

    def _launch(self, kernel: Any, grid: tuple[int, int], *arguments: Any) -> None:
        # Triton asks for the current device, not for its arguments'; -1 is none.
        with torch.cuda.device(self.image.get_device()):
            kernel[grid](*arguments, **self._fixed)


def _parts(count: int, size: int) -> int:
    return -(-count // size)


def _precision(device: torch.device) -> str:
    """Of products of float32: three products of tensor cores, where these take parts of float32."""
    return "tf32x3" if device.type == "cuda" and torch.version.hip is None else "ieee"


def less_targets(slopes: Tensor, targets: Tensor | None, share: Tensor, place: tuple[slice, slice]) -> None:
    """Take further targets (r, c) off the slopes, and give back what the own pair's target has lost to them.

    Args:
        slopes: (r, c), own pairs' targets taken as 1.
        targets: of one view; None where none lies in this rectangle.
        share: (r, 1) or (1, c), of each target of a row or column.
        place: of the rectangle in the whole batch.
    """
    if targets is not None:
        slopes.sub_(targets * share)
    diagonal, shares = own_pairs(slopes, *place), own_pairs(share.expand_as(slopes), *place)
    if diagonal is not None and shares is not None:
        diagonal.add_(1 - shares)
