"""Twelve ways in which a picture can be broken, each with what is said of it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

BOMB = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
)


def _in(data: bytes, kind: str) -> bytes:
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(data))
    image.save(stream, kind)
    return stream.getvalue()


def _broken_checksum(data: bytes) -> bytes:
    png = bytearray(_in(data, "PNG"))
    png[len(png) // 2] ^= 255
    return bytes(png)


BROKEN = {
    "cut JPEG": (lambda data: data[: len(data) // 3], "undecodable picture: OSError: image file is truncated"),
    "zero bytes": (lambda data: bytes(len(data)), "not a picture in a known format"),
    "text": (lambda data: b"a caption in the wrong place\n" * 20, "not a picture in a known format"),
    "wrong magic": (lambda data: b"JFIF" + data[4:], "not a picture in a known format"),
    "bomb": (lambda data: BOMB, "decompression bomb"),
    "broken checksum": (_broken_checksum, "undecodable picture"),
    "cut GIF": (lambda data: _in(data, "GIF")[:1200], "undecodable picture"),
    "empty file": (lambda data: b"", "empty"),
    "error page": (lambda data: b"<!DOCTYPE html><html><h1>403 Forbidden</h1></html>", "not a picture"),
    "SVG": (lambda data: b'<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>', "not a picture"),
    "PDF": (lambda data: b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n%%EOF\n", "not a picture"),
    "a folder": (None, "not a file"),
}
"""What is made of a good JPEG, and a part of the reason that is listed."""


def write_broken(kind: str, path: Path, good: bytes) -> None:
    """A picture that is broken in one of the ways, from a good one."""
    make = BROKEN[kind][0]
    if make is None:
        path.mkdir()
    else:
        path.write_bytes(make(good))
