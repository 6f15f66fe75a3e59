# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Triton kernels over one rectangle of similarities: products in SRAM, and only what follows from them written out.

Import this only where the kernels run: it needs the package triton. With TRITON_INTERPRET=1, set before triton is
imported, they run on CPU tensors.

A program has ROWS pictures and COLUMNS captions. Pictures, captions (r, DIM), (c, DIM) are contiguous. Sums are float32
and are taken in an order that only the sizes decide: partial results are written, never added atomically.

PRECISION is that of products of float32: "tf32x3" makes each out of three products of tensor cores, with nearly all
digits of float32 where plain "tf32" keeps three decimal ones (at scale 100, logits off by .05); "ieee" is exact and
without tensor cores. WIDE makes float32 of all factors first, for the interpreter, which cannot multiply bfloat16.
"""

import triton
import triton.language as tl


@triton.jit
def _logits(
    image, text, scale, row, column, row_count, column_count,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Scale times the products of pictures `row` and captions `column`, -inf outside of the rectangle."""
    cosines = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, DIM, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        left = tl.load(
            image + row[:, None] * DIM + depth[None, :],
            mask=(row < row_count)[:, None] & (depth < DIM)[None, :],
            other=0.0,
        )
        right = tl.load(
            text + column[None, :] * DIM + depth[:, None],
            mask=(column < column_count)[None, :] & (depth < DIM)[:, None],
            other=0.0,
        )
        if WIDE:
            left, right = left.to(tl.float32), right.to(tl.float32)
        cosines = tl.dot(left, right, cosines, input_precision=PRECISION)
    inside = (row < row_count)[:, None] & (column < column_count)[None, :]
    return tl.where(inside, cosines * tl.load(scale), float("-inf"))


@triton.jit
def _weighted(logits, weights, place, inside, own):
    """Logits with the log-weights of the rectangle, where there are any; a row's own pair never has one."""
    if weights is not None:
        logits += tl.where(own, 0.0, tl.load(weights + place, mask=inside, other=0.0).to(tl.float32))
    return logits


@triton.jit
def _log_sum_exp(logits, AXIS: tl.constexpr):
    """Along one axis; -inf where all are."""
    top = tl.max(logits, AXIS)
    nothing = top == float("-inf")
    shift = tl.where(nothing, 0.0, top)  # else -inf - -inf
    total = tl.sum(tl.exp(logits - tl.expand_dims(shift, AXIS)), AXIS)
    return top + tl.log(tl.where(nothing, 1.0, total))


@triton.jit(do_not_specialize=["row_count"])
def similarities(
    image, text, scale, out, row_count, column_count,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The scaled products themselves, (r, c), for rules that look at them."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    logits = _logits(
        image, text, scale, row, column, row_count, column_count, DIM, ROWS, COLUMNS, DEPTH, PRECISION, WIDE
    )
    inside = (row < row_count)[:, None] & (column < column_count)[None, :]
    tl.store(out + row[:, None] * column_count + column[None, :], logits, mask=inside)


@triton.jit(do_not_specialize=["row_count", "own_shift"])
def info_nce_sums(
    image, text, scale, image_weights, text_weights, of_rows, of_columns, row_count, column_count, own_shift,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of each row and each column of a program's tile: the softmaxes of both directions from one product.

    Maxima are the tile's own, so that nothing over- or underflows at any scale, and no host needs to be asked.

    Args:
        image_weights, text_weights: (r, c) log-weights of the two views, pictures in rows, or None.
        of_rows: (programs along the captions, r), written.
        of_columns: (programs along the pictures, c), written.
        own_shift: row + own_shift is the column of a row's own caption.
    """
    down, along = tl.program_id(0), tl.program_id(1)
    row, column = down * ROWS + tl.arange(0, ROWS), along * COLUMNS + tl.arange(0, COLUMNS)
    logits = _logits(
        image, text, scale, row, column, row_count, column_count, DIM, ROWS, COLUMNS, DEPTH, PRECISION, WIDE
    )
    inside = (row < row_count)[:, None] & (column < column_count)[None, :]
    own = (row + own_shift)[:, None] == column[None, :]
    place = row[:, None] * column_count + column[None, :]
    of_image = _weighted(logits, image_weights, place, inside, own)
    tl.store(of_rows + along * row_count + row, _log_sum_exp(of_image, 1), mask=row < row_count)
    of_text = _weighted(logits, text_weights, place, inside, own)
    tl.store(of_columns + down * column_count + column, _log_sum_exp(of_text, 0), mask=column < column_count)


@triton.jit(do_not_specialize=["row_count", "own_shift"])
def info_nce_slopes(
    image, text, scale, image_weights, text_weights, of_rows, of_columns, slopes, row_count, column_count, own_shift,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Both softmaxes less both targets, (r, c): 2 b times the gradient of the loss by the logits.

    Args:
        of_rows, of_columns: (r,), (c,) log-sum-exp of whole rows and columns; the rest as in `info_nce_sums`.
        slopes: (r, c), written in its own type; the own pair is taken off before any rounding.
    """
    down, along = tl.program_id(0), tl.program_id(1)
    row, column = down * ROWS + tl.arange(0, ROWS), along * COLUMNS + tl.arange(0, COLUMNS)
    logits = _logits(
        image, text, scale, row, column, row_count, column_count, DIM, ROWS, COLUMNS, DEPTH, PRECISION, WIDE
    )
    inside = (row < row_count)[:, None] & (column < column_count)[None, :]
    own = (row + own_shift)[:, None] == column[None, :]
    place = row[:, None] * column_count + column[None, :]
    across = tl.load(of_rows + row, mask=row < row_count, other=0.0)
    upright = tl.load(of_columns + column, mask=column < column_count, other=0.0)
    target = tl.where(own, 1.0, 0.0)
    # Each target off its own softmax: the difference of numbers near 1 is exact, that of their sum would not be.
    slope = tl.exp(_weighted(logits, image_weights, place, inside, own) - across[:, None]) - target
    slope += tl.exp(_weighted(logits, text_weights, place, inside, own) - upright[None, :]) - target
    tl.store(slopes + place, slope.to(slopes.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["row_count", "own_shift"])
def sigmoid_slopes(
    image, text, scale, bias, weights, losses, sums, slopes, row_count, column_count, own_shift,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Summed sigmoid loss of a program's tile, and its gradient by the logits.

    Args:
        weights: (r, c) log-weights, or None.
        losses, sums: one number a program, written: its loss, and the sum of its slopes.
        slopes: (r, c), written in its own type; None where no gradient is wanted.
    """
    down, along = tl.program_id(0), tl.program_id(1)
    row, column = down * ROWS + tl.arange(0, ROWS), along * COLUMNS + tl.arange(0, COLUMNS)
    logits = tl.load(bias) + _logits(
        image, text, scale, row, column, row_count, column_count, DIM, ROWS, COLUMNS, DEPTH, PRECISION, WIDE
    )
    inside = (row < row_count)[:, None] & (column < column_count)[None, :]
    own = (row + own_shift)[:, None] == column[None, :]
    place = row[:, None] * column_count + column[None, :]
    logits = _weighted(logits, weights, place, inside, own)
    # A pair's own loss is softplus(-a), its slope -sigmoid(-a): a difference from 1 would lose the digits of both.
    logits = tl.where(own, -logits, logits)
    small = tl.exp(-tl.abs(logits))
    more = 1.0 + small
    # log(1 + e) for small e: what rounding 1 + e loses is, to first order, put back.
    loss = tl.maximum(logits, 0.0) + tl.log(more) - ((more - 1.0) - small) / more
    slope = tl.where(logits >= 0, 1.0, small) / more
    slope = tl.where(inside, tl.where(own, -slope, slope), 0.0)
    program = down * tl.num_programs(1) + along
    tl.store(losses + program, tl.sum(tl.where(inside, loss, 0.0)))
    tl.store(sums + program, tl.sum(slope))
    if slopes is not None:
        tl.store(slopes + place, slope.to(slopes.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["row_count", "count"])
def add_product(
    left, right, out, row_count, count, row_stride, stride,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Add left @ right to `out`: slopes and features to gradients.

    Args:
        left: (r, count) with any strides, so that one matrix of slopes, and it transposed, serve both sides.
        right: (count, DIM) contiguous.
        out: (r, DIM) contiguous float32.
    """
    # Programs that share rows of the left factor are neighbours, so that it is read once into the cache.
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, count, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        a = tl.load(
            left + row[:, None] * row_stride + depth[None, :] * stride,
            mask=(row < row_count)[:, None] & (depth < count)[None, :],
            other=0.0,
        )
        b = tl.load(
            right + depth[:, None] * DIM + column[None, :],
            mask=(depth < count)[:, None] & (column < DIM)[None, :],
            other=0.0,
        )
        if WIDE:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    place = out + row[:, None] * DIM + column[None, :]
    inside = (row < row_count)[:, None] & (column < DIM)[None, :]
    tl.store(place, tl.load(place, mask=inside, other=0.0) + total, mask=inside)
