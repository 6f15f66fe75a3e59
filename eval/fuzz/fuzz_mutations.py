"""Valid files made invalid: by bytes, by words that parsers stumble over, and by values inside of JSON."""

import json
import random
from collections.abc import Callable
from typing import Any

Files = dict[str, bytes]
"""A file, or the files of a folder, by name."""

_NUMBERS = [0, 1, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
_WORDS = [
    b"\x00",
    b"\xff" * 8,
    b"\x1b[2J\x1b]0;x\x07",
    b"\xe2\x80\xae\xe2\x81\xa6",
    b"\xed\xa0\x80",
    b"../" * 6 + b"etc/passwd",
    b"/etc/passwd",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1",
    b"9" * 400,
    b"[" * 3000,
    b'{"a":' * 1500,
    b'"',
    b"'",
    b"\\ud800",
    b"\\u0000",
    b"\r",
    b"\n\n",
    b",",
    b"\t",
    b"!!python/object/apply:os.system ['true']",
    b"&a [*a, *a]",
    b"*a",
    b"!!omap [a: 1]",
    b"!!int ''",
    b"<<: *a",
    b"['" + b"-" * 500,
    b"x" * 70_000,
]
_VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    0.5,
    -1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "\x00",
    "\ud800",
    "../../x",
    "/etc/passwd",
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": {}},
    [1, 2, 3],
    ["a", "b"],
]


def mutated(files: Files, others: list[Files], rng: random.Random) -> Files:
    """One file of a valid sample damaged in one or a few ways; `others` are samples to splice from."""
    name = rng.choice(sorted(files))
    data = files[name]
    if data[:1] in (b"{", b"[") and rng.random() < 0.6:
        changed = _json_mutated(data, rng)
        if changed != data and rng.random() < 0.8:
            return {**files, name: changed}
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        data = rng.choice(_WAYS)(data, [other.get(name, b"") for other in others], rng)
    return {**files, name: data[: 1 << 20]}


def _place(data: bytes, rng: random.Random) -> int:
    # Headers decide most: half of the changes fall into the first bytes.
    return rng.randrange(min(len(data), 64) + 1) if rng.random() < 0.5 else rng.randrange(len(data) + 1)


def _flip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data or b"\x00")
    for _ in range(rng.choice((1, 2, 8))):
        changed[min(_place(data, rng), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    at, value = _place(data, rng), rng.choice(_NUMBERS) % (1 << 8 * width)
    return data[:at] + value.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def _cut(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _delete(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 16, 512)) :]


def _repeat(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at : at + rng.choice((1, 4, 64, 512))] * rng.choice((2, 3, 50)) + data[at:]


def _word(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at, word = _place(data, rng), rng.choice(_WORDS)
    return data[:at] + word + data[at + rng.choice((0, 0, 1, len(word))) :]


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others) if others else b""
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _noise(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 8, 100))) + data[at:]


_WAYS: list[Callable[[bytes, list[bytes], random.Random], bytes]] = [
    _flip,
    _flip,
    _number,
    _number,
    _cut,
    _delete,
    _repeat,
    _word,
    _word,
    _splice,
    _noise,
]


def _json_mutated(data: bytes, rng: random.Random) -> bytes:
    """Another value, key or depth somewhere in JSON, or in each of some lines of it."""
    try:
        value = json.loads(data)
    except ValueError:
        lines = data.split(b"\n")
        at = rng.randrange(len(lines))
        changed = _json_mutated(lines[at], rng) if len(lines) > 1 else lines[at]
        return b"\n".join([*lines[:at], changed, *lines[at + 1 :]])
    for _ in range(rng.choice((1, 1, 2))):
        _change_somewhere(value, rng)
    return json.dumps(value).encode()


def _change_somewhere(value: Any, rng: random.Random) -> None:
    while isinstance(value, dict | list) and value:
        key: Any = rng.choice(sorted(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.8:
            value = value[key]
            continue
        how = rng.random()
        if how < 0.7:
            value[key] = rng.choice(_VALUES)
        elif how < 0.85 or isinstance(value, list):
            del value[key]
        else:
            value[f"{key}x"] = value[key]
        return
