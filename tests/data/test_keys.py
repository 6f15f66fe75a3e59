from __future__ import annotations

import pytest

from mmcontrast.data.keys import caption_key, normalise_caption, text_key
from mmcontrast.types import NO_KEY


@pytest.mark.parametrize(
    ("caption", "normal"),
    [
        ("A dog .", "a dog"),
        ("  A\tdog \n runs ", "a dog runs"),
        ("Straße!", "strasse"),
        ("ｆｕｌｌ　ｗｉｄｔｈ。", "full width"),
        ("!", "!"),
        ("grinning face, smile", "grinning face, smile"),
        ("几个人在骑自行车。", "几个人在骑自行车"),
    ],
)
def test_normalisation(caption: str, normal: str) -> None:
    assert normalise_caption(caption) == normal


def test_same_caption_has_same_key_and_others_differ() -> None:
    assert caption_key("A dog .") == caption_key("a  Dog")
    assert caption_key("a dog") != caption_key("a cat")
    assert caption_key("!") != caption_key("?")
    keys = {text_key(str(i)) for i in range(2000)}
    assert len(keys) == 2000
    assert all(-(2**63) <= key < 2**63 and key != NO_KEY for key in keys)
    assert min(keys) < 0 < max(keys)


def test_key_is_the_same_in_every_run() -> None:
    assert text_key("a dog") == -4081912340589182210
