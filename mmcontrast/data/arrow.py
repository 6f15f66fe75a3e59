"""What Arrow's columns hold, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from mmcontrast.data.opening import is_remote, may_pass
from mmcontrast.errors import DataError, ReadError


@contextmanager
def arrow_errors(file: str) -> Iterator[None]:
    """Whatever Arrow and Python say of a damaged Parquet file becomes a DataError."""
    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if may_pass(error, file):
            raise ReadError(f"{file}: cannot be read: {reason[:300]}") from None
        raise DataError(f"{file}: not a readable Parquet file: {reason[:300]}") from None
    except Exception as error:  # drivers of URLs have errors of their own
        if not is_remote(file):
            raise
        raise ReadError(f"{file}: cannot be read: {' '.join(str(error).split())[:300]}") from None


def is_bytes(kind: Any) -> bool:
    """Whether a column holds bytes, or nothing at all."""
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_null)
    return any(test(kind) for test in kinds)


def is_text(kind: Any) -> bool:
    """Whether a column holds texts, or nothing at all."""
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))
