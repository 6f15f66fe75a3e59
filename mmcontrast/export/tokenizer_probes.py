"""Texts that tokenizers treat in different ways, and the comparison of two tokenizers on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

PLAIN = (
    "a brown dog runs over the grass",
    "A photo of two green cars!",
    "There are 123 planes - some are white, others aren't.",
    "T-shirt/top",
    "Ankle boot (a photo of the number: 7)",
    "ein großer Hund läuft über die Wiese",
    "Zwei Mädchen spielen Fußball .",
    "un garçon à l'école, où il neige",
    "un perro corre por la hierba, ¿no?",
    "一只狗在草地上跑，很快。",
    "犬が芝生の上を走っている、カメラ",
    "개가 잔디 위를 달린다",
    "собака бежит по траве",
    "كلب يجري على العشب",
    "कुत्ता घास पर दौड़ रहा है",
    "สุนัขวิ่งบนหญ้า",
    "smiling face 🙂",
)
"""Everyday captions of many scripts."""

SPACES = (
    "a  red\t dog\n on   grass ",
    "  leading and trailing  ",
    "no\u00a0break\u00a0space",
    "ideographic\u3000space",
    "thin\u2009and\u202fnarrow\u2003em",
    "zero\u200bwidth\u200cjoin\u200der",
    "line\r\nbreak\u2028and\u2029paragraph\x85next",
    "\ufeffmark",
    " ",
    "\n",
    "\u3000",
    "",
)

FORMS = (
    "Ａ　ＲＥＤ　Ｄｏｇ！",
    "ｶﾞｷﾞ ﾊﾟ",
    "ﬁne ﬂoor oﬃce",
    "cafe\u0301 and café",
    "A\u030angstro\u0308m Å Å",
    "x\u0301 X\u0301 q\u0323\u0307",
    "Ｅ\u0301 ﾞ",
    "STRASSE Straße ẞ",
    "İSTANBUL Iı i̇ I\u0307",
    "ΟΔΟΣ Σ σς ΑΣ.",
    "Ⅷ ① ½ x² № ㎏ ™",
    "ǅ Ǆ ŉ ſ ǰ",
    "\u1112\u1161\u11ab 한",
    "“curly” ‘quotes’ it’s „low“",
    "em—dash en–dash … ellipsis ～ ~",
)
"""Compatibility forms, composition, case."""

SYMBOLS = (
    "👩‍👩‍👧‍👦 family 👍🏽 🇩🇪 ❤️ #️⃣",
    "🏳️‍🌈🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "🫠🪿 \U0001fae8",
    "€ £ ¥ ° § ½ ∞ ≠ →",
    "a_b-c.d,e;f:g!h?i/j\\k|l@m#n$o%p^q&r*s(t)u[v]w{x}y",
    "<s> </s> <unk> <pad> <0x41> <0xE2> [CLS] [SEP] [PAD]",
    "<b>bold</b> 1 < 2 > 0",
    "▁lower▁block▁",
    "don't I'LL they've we're I'd 'S",
    "1234567890 3.14 1,000,000 1e-5 ٣٤ १२",
    "!!!???...---",
)

ODD = (
    "null\x00byte bell\x07 escape\x1b del\x7f",
    "\x01\x02",
    "\u061c\u200e\u200f\u2066ltr\u2069",
    "Z̸̢̛͖a̴͎͐l̷̫̈́g̵̱̓o̶̜͌",
    "\ue000 private \U000f0000 \U0010fffd",
    "\ufffd\ufffe",
    "𝕱𝖗𝖆𝖐𝖙𝖚𝖗 𝒞𝓊𝓇𝓈ℐ𝓋ℯ",
    "ꭰ Ꭰ ᏸ",
    "\U00010400\U00010428 𐐀",
    "a" + " dog" * 300,
    "Donaudampfschifffahrtsgesellschaftskapitän" * 12,
    "一只狗在草地上跑" * 60,
)
"""Control characters, private characters, very long texts."""

COMMON = (*PLAIN, *SPACES, *FORMS, *SYMBOLS)
"""What must get the same ids."""

PROBES = (*COMMON, *ODD)


def first_difference(
    ours: Callable[[Sequence[str]], list[list[int]]],
    theirs: Callable[[Sequence[str]], list[list[int]]],
    captions: Sequence[str],
) -> str | None:
    """The first caption that gets other ids, with both, in a line; None if there is none."""
    for caption, mine, other in zip(captions, ours(captions), theirs(captions), strict=True):
        if mine != other:
            place = next((i for i, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1]), -1)
            start = max(place - 2, 0) if place >= 0 else min(len(mine), len(other)) - 1
            return f"{ascii(caption)[:80]}: ...{mine[start : start + 8]} against ...{other[start : start + 8]}"
    return None
