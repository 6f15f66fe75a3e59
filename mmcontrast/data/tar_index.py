"""What is where in a tar, from its headers alone: nothing is unpacked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from mmcontrast.errors import DataError

_BLOCK = 512
_LONGEST_NAME = 1 << 20
"""Bytes of the headers that long names stand in."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class Sample:
    """The members of one key, by extension; `cut` where the tar ends within one of them."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    cut: bool = False


def tar_members(tar: BinaryIO, name: str) -> Iterator[Member | None]:
    """The files in a tar, from its headers alone; a last None if the tar is cut off.

    Raises:
        DataError: a header is damaged.
    """
    end = tar.seek(0, os.SEEK_END)
    offset, long_name = 0, None
    while offset < end:
        tar.seek(offset)
        header = tar.read(_BLOCK)
        if not header.strip(b"\0"):
            return  # the mark of the end
        if len(header) < _BLOCK:
            yield None
            return
        size = _check_header(header, name, offset)
        data, kind = offset + _BLOCK, header[156:157]
        offset = data + (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if data + size > end:
            yield Member(long_name or _member_name(header), data, size) if kind in b"0\0" else None
            yield None
            return
        if kind in (b"L", b"x") and size > _LONGEST_NAME:
            raise DataError(f"{name}: damaged tar: a name of {size} bytes at byte {data}; write or download it again")
        if kind == b"L":
            long_name = tar.read(size).rstrip(b"\0").decode("utf-8", "replace")
        elif kind == b"x":
            try:
                long_name = _pax_path(tar.read(size)) or long_name
            except ValueError:
                raise DataError(f"{name}: damaged tar: no valid header at byte {data}; download it again") from None
        elif kind in (b"0", b"\0", b"7"):
            yield Member(long_name or _member_name(header), data, size)
            long_name = None
        elif kind != b"g":
            long_name = None
    yield None  # no mark of the end


def _check_header(header: bytes, name: str, offset: int) -> int:
    """Size of the member, if the checksum of its header is right."""
    try:
        checksum = int(header[148:156].strip(b" \0") or b"0", 8)
        raw = header[124:136]
        size = int.from_bytes(raw[1:], "big") if raw[0] & 0x80 else int(raw.strip(b" \0") or b"0", 8)
        if size < 0:  # would lead back to where we have been
            raise ValueError
    except ValueError:
        checksum, size = -1, 0
    if checksum != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
        if offset == 0:
            raise DataError(f"{name}: not a tar file (packed tars cannot be read in place: unpack with gunzip first)")
        raise DataError(f"{name}: damaged tar: no valid header at byte {offset}; write or download it again")
    return size


def _member_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0].decode("utf-8", "replace")
    prefix = header[345:500].split(b"\0", 1)[0].decode("utf-8", "replace")
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _pax_path(data: bytes) -> str | None:
    while data:
        digits, _, rest = data.partition(b" ")
        length = int(digits)
        if length <= len(digits) + 1:  # would not lead on
            raise ValueError
        key, _, value = rest[: length - len(digits) - 1].rstrip(b"\n").partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "replace")
        data = data[length:]
    return None


def tar_samples(tar: BinaryIO, name: str) -> Iterator[Sample]:
    """Neighbouring members with the same name up to the first dot, as samples."""
    sample: Sample | None = None
    for member in tar_members(tar, name):
        if member is None:
            sample = sample or Sample("(nothing)")
            sample.cut = True
            continue
        folder, base = os.path.split(member.name)
        stem, _, extension = base.partition(".")
        if not stem:
            continue
        key = os.path.join(folder, stem)
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        sample.members[extension.lower()] = member
    if sample is not None:
        yield sample
