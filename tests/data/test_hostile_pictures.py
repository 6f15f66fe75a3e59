"""Pictures of the wrong kind, size or shape: refused in one line, or prepared without filling the memory."""

from __future__ import annotations

import resource
import struct
import warnings
import zlib
from pathlib import Path

import pytest
from making_data import encoded, picture
from PIL import Image

from mmcontrast.data import train_transform
from mmcontrast.data.transforms import AUGMENTATIONS
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess, decode_image


def bomb(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG of a hundred bytes that claims to be enormous."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * (rows * (1 + 3 * width)) if width < 1 << 20 else b"\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def broken_crc() -> bytes:
    data = bytearray(encoded(picture(0)))
    data[30] ^= 255
    return bytes(data)


PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
HTML = b"<!DOCTYPE html><html><body><h1>403 Forbidden</h1></body></html>"


def animation() -> bytes:
    frames = [picture(i, (40, 40)).convert("P") for i in range(2)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


BAD = {
    "truncated JPEG": encoded(picture(0, (200, 100)), "JPEG")[:700],
    "zero bytes": bytes(500),
    "text": b"this is a caption and no picture",
    "wrong magic": b"\x89PNX" + encoded(picture(0))[4:],
    "bomb": bomb(200_000, 200_000),
    "broken checksum": broken_crc(),
    "cut GIF": animation()[:900],
    "empty": b"",
    "error page": HTML,
    "SVG": SVG,
    "PDF": PDF,
    "EPS": EPS,
}


@pytest.mark.parametrize("kind", BAD)
def test_each_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(BAD[kind])
    for source in (BAD[kind], tmp_path / "picture.jpg"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError, match=r"^[^\n]+$"):
                decode_image(source)


@pytest.mark.parametrize("size", [(20_000, 20_000), (1 << 31, 1), (2**31 - 1, 2**31 - 1), (100_001, 1000)])
def test_bombs_are_known_by_their_header(size: tuple[int, int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"is over the limit of|decompression bomb|not a picture|undecodable"):
        decode_image(bomb(*size))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_an_icon_that_hides_a_larger_picture() -> None:
    inner = encoded(Image.new("RGB", (3000, 2000)), "PNG")
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    with pytest.raises(DataError, match="picture of 3000 x 2000 pixels is over the limit of 100000"):
        decode_image(icon, max_pixels=100_000)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (100_000, 1), (1, 100_000), (100_000, 60), (3, 2999)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_pictures_of_any_shape_are_prepared_in_little_memory(size: tuple[int, int], resize: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = decode_image(encoded(Image.new("RGB", size, (255, 0, 9)), "PNG"))
    preprocess = ImagePreprocess(64, resize=resize)  # type: ignore[arg-type]
    pixels = preprocess.pixels(image)
    assert pixels.shape == (3, 64, 64)
    assert pixels[:, 32, 32].tolist() == [255, 0, 9]
    for augmentation in AUGMENTATIONS:
        assert train_transform(preprocess, augmentation)(image).shape == (3, 64, 64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_long_pictures_show_their_middle() -> None:
    """What is cut off at the far ends would not have been seen anyway."""
    wide = Image.new("RGB", (4000, 10), (0, 0, 255))
    wide.paste((255, 0, 0), (1990, 0, 2010, 10))
    pixels = ImagePreprocess(20).pixels(wide)
    tall = ImagePreprocess(20).pixels(wide.transpose(Image.Transpose.TRANSPOSE))
    assert pixels[:, 10, 10].tolist() == [255, 0, 0]
    assert pixels.transpose(1, 2).tolist() == tall.tolist()
    near = Image.new("RGB", (2000, 10), (0, 0, 255))
    near.paste((255, 0, 0), (990, 0, 1010, 10))
    assert ImagePreprocess(20).pixels(near).tolist() == pixels.tolist()


def test_text_in_a_picture_stays_in_it() -> None:
    """A PNG's compressed text may unpack to gigabytes; Pillow stops, and the picture is a bad row."""
    data = encoded(picture(0))
    text = b"Comment\0\0" + zlib.compress(bytes(100 << 20))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    with pytest.raises(DataError, match="undecodable picture: ValueError: Decompressed data too large"):
        decode_image(data[:33] + chunk + data[33:])


@pytest.mark.parametrize("exif", [b"MM\xff*\0\0\0\x08", b"MM\\u0000M", b"II*\0\xff\xff\xff\xff", b"x", b""])
def test_a_damaged_exif_block_says_nothing(exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        image = decode_image(encoded(picture(0), kind, exif=b"Exif\0\0" + exif))
        assert image.size == (12, 10)
        assert ImagePreprocess(8).pixels(image).shape == (3, 8, 8)


def test_names_in_errors_do_not_command_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in str(DataError("no \x1b[31mcolour\x1b[0m, no \x07 bell, no \u202e turning"))
    assert str(DataError("a\x1b[2J\r\x9b\u2028")) == "a\\x1b[2J\\r\\x9b\\u2028"
    assert str(DataError("كلب 🙂 e\u0301 \u200d two\nlines\t")) == "كلب 🙂 e\u0301 \u200d two\nlines\t"
