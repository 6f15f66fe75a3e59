"""A table of pictures whose texts try to do harm."""

from __future__ import annotations

import json
from pathlib import Path

from mmcontrast.data import open_source

ESCAPES = "\x1b]0;title\x07\x1b[2J\x1b[31m\x9b1m\u202e\u2066\x00\x08\r"
CAPTIONS = [
    ESCAPES + " a caption",
    "كلب أحمر يجري على العشب",
    "כלב אדום \u200f רץ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 smiling 🙂",
    "e" + "\u0301" * 5000,
    "word " * 200_000,
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[red]markup[/] [/nothing] {} {c} {0.__class__} %s %n",
    "../../etc/passwd; rm -rf $HOME `id` $(id)",
    "\ud83d half an emoji",
    "﷽" * 1000,
    "I\u0307 ẞ ſ ŉ",
]


def hostile_table(folder: Path) -> Path:
    """A JSON lines file, with a name that a terminal would obey; two of its rows are bad."""
    scenes = open_source("synthetic://scenes", rows=24)
    rows = []
    for i in range(24):
        name = f"{i}.jpg"
        data = scenes.image(i)
        assert isinstance(data, bytes)
        (folder / name).write_bytes(data)
        rows.append({"image": name, "caption": CAPTIONS[i % len(CAPTIONS)] + f" {i}", "lab\x1b[2Jel": "x"})
    rows[3]["image"], rows[4]["caption"] = ESCAPES + ".jpg", "\ud800"
    path = folder / "da\x1b[31mta[red].jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
