"""Files on disk or behind a URL, opened for reading, and what their errors mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from mmcontrast.errors import DataError, ReadError

_URL = re.compile(r"[a-zA-Z][\w+.-]*(::[\w+.-]+)*://")
_BLOCK = 8 << 20
"""Bytes that are asked for at a time over the network: tars and row groups are read from front to back."""
_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def is_remote(path: str) -> bool:
    """Whether a path is a URL that fsspec opens (s3://..., https://..., memory://...)."""
    return _URL.match(path) is not None


def open_file(file: str) -> BinaryIO:
    """A file on disk or behind a URL.

    Raises:
        DataError: it is not there, or the driver of its protocol is not installed.
        ReadError: it cannot be opened just now.
    """
    if not is_remote(file):
        with read_errors(file):
            return open(file, "rb")
    system, path = file_system(file)
    with read_errors(file):
        return cast(BinaryIO, system.open(path, "rb", block_size=_BLOCK))


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        DataError: unknown protocol, or its driver is not installed.
    """
    protocol = url.split("://")[0].split("::")[-1]
    try:
        import fsspec

        return cast(tuple[Any, str], fsspec.core.url_to_fs(url))
    except ImportError as error:
        wanted = _DRIVERS.get(protocol, "fsspec")
        raise DataError(
            f"{url}: reading {protocol}:// needs the package {wanted}: pip install {wanted} ({error})"
        ) from None
    except ValueError as error:
        raise DataError(f"{url}: {error}") from None
    except Exception as error:  # drivers raise errors of their own on bad credentials, unknown hosts, ...
        raise DataError(f"{url}: cannot be opened: {_reason(error)}") from None


_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "hf": "huggingface_hub",
    "sftp": "paramiko",
    "oss": "ossfs",
}


def find_files(pattern: str) -> list[str]:
    """URLs that a URL with * ? [] stands for, sorted; a URL without them is taken as it is."""
    if not re.search(r"[*?\[]", pattern.split("://", 1)[1]) or pattern.startswith(("http://", "https://")):
        return [pattern]
    system, path = file_system(pattern)
    with read_errors(pattern):
        return sorted(system.unstrip_protocol(found) for found in system.glob(path))


def list_files(url: str) -> list[str]:
    """URLs of all files below a folder, sorted; empty where the URL is no folder."""
    system, path = file_system(url)
    with read_errors(url):
        return sorted(system.unstrip_protocol(found) for found in system.find(path)) if system.isdir(path) else []


@contextmanager
def read_errors(file: str) -> Iterator[None]:
    """What the system, or the driver of a URL, says of a file becomes a DataError, or a ReadError if it may pass."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        kind = ReadError if may_pass(error, file) else DataError
        raise kind(f"{file}: cannot be read: {_reason(error)}") from None
    except Exception as error:
        if not is_remote(file):
            raise
        raise ReadError(f"{file}: cannot be read: {_reason(error)}") from None


def may_pass(error: BaseException, file: str) -> bool:
    """Whether another try may help: not where the file is not there, or its bytes are not what they should be."""
    if not isinstance(error, OSError) or isinstance(error, _FOR_GOOD):
        return False
    # Arrow reports damaged bytes as errors of the system without a number.
    return error.errno is not None or isinstance(error, TimeoutError | ConnectionError) or is_remote(file)


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


def file_name(file: str) -> str:
    """The last part of a path or URL, without a query."""
    return os.path.basename(file.split("?")[0])
