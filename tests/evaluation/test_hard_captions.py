from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from mmcontrast.data import open_source
from mmcontrast.evaluation.hard_captions import KINDS, hard_captions


def made(*captions: str, seed: int = 0) -> dict[str, str]:
    return {hard.kind: hard.text for hard in hard_captions(captions, [0] * len(captions), seed=seed) if not hard.place}


@pytest.mark.parametrize(
    ("kind", "caption", "texts"),
    [
        ("noun", "A dog chases a cat across the grass.", {"A cat chases a dog across the grass.",
                                                           "A grass chases a cat across the dog.",
                                                           "A dog chases a grass across the cat."}),
        ("noun", "The young man in an old car .", {"The young car in an old man ."}),
        ("noun", "An owl on a tree", {"A tree on an owl"}),
        ("adjective", "a black dog and a white cat", {"a white dog and a black cat"}),
        ("adjective", "the small brown dog, and a young boy", {"the small young dog, and a brown boy"}),
        ("adjective", "cars on a wet road", {"cars on a dry road"}),
        ("adjective", "A big dog", {"A small dog"}),
        ("number", "Two dogs", {f"{n.capitalize()} dogs" for n in
                                ("three", "four", "five", "six", "seven", "eight", "nine", "ten")}),
        ("number", "7 dogs", {f"{n} dogs" for n in (2, 3, 4, 5, 6, 8, 9, 10)}),
        ("order", "boys throwing rocks", {"rocks throwing boys"}),  # neighbours stay: "a big brown dog"
        ("order", "boys throwing rocks off cliffs",
         {"rocks throwing boys off cliffs", "cliffs throwing rocks off boys",
          "boys cliffs rocks off throwing", "boys throwing cliffs off rocks"}),
    ],
)  # fmt: skip
def test_each_rule(kind: str, caption: str, texts: set[str]) -> None:
    found = {made(caption, seed=seed)[kind] for seed in range(40)}
    assert found <= texts
    assert len(found) > 1 or len(texts) == 1


@pytest.mark.parametrize(
    ("kind", "caption"),
    [
        ("noun", "a man and a woman"),  # the same the other way round
        ("noun", "a dog next to the cat"),
        ("noun", "a dog"),
        ("noun", "a dog and another dog"),
        ("noun", "a black and white dog in snow"),  # black is no thing
        ("adjective", "a dog on a street"),
        ("number", "one of the dogs 1"),
        ("order", "dogs"),
        ("order", "..."),
        ("order", ""),
        ("order", "一个小朋友在河中玩石头。"),
    ],
)
def test_nothing_is_made_where_nothing_is_sure(kind: str, caption: str) -> None:
    assert kind not in made(caption)


def test_a_right_caption_of_the_same_picture_is_never_made() -> None:
    assert made("a boy on a horse")["noun"] == "a horse on a boy"
    assert "noun" not in made("a boy on a horse", "A horse on a boy .")
    other = hard_captions(["a boy on a horse", "A horse on a boy ."], [0, 1])
    assert {hard.place for hard in other if hard.kind == "noun"} == {0, 1}


def test_a_caption_s_wrong_ones_depend_on_it_and_the_seed_alone() -> None:
    captions = [f"the {a} dog chases two {b} cats over a hill" for a in ("red", "blue") for b in ("old", "wet")]
    there = {hard.text for hard in hard_captions(captions, range(4))}
    back = {hard.text for hard in hard_captions(captions[::-1], range(4))}
    assert there == back
    random.seed(1)
    assert there == {hard.text for hard in hard_captions(captions, range(4))}
    assert there != {hard.text for hard in hard_captions(captions, range(4), seed=1)}


def test_on_real_captions(shared_data: Path) -> None:
    source = open_source(str(shared_data / "flickr8k" / "val.parquet"), rows=200)
    captions = [caption for i in range(len(source)) for caption in source.captions(i)[:5]]
    owners = [i for i in range(len(source)) for _ in source.captions(i)[:5]]
    found = hard_captions(captions, owners)
    counts = Counter(hard.kind for hard in found)
    assert counts["order"] > 0.8 * len(captions)
    assert all(counts[kind] > 0.05 * len(captions) for kind in KINDS)
    for hard in found:
        if hard.kind in ("noun", "order"):  # the same words, elsewhere
            words, before = (set(re.findall(r"\w+", text.lower())) for text in (hard.text, captions[hard.place]))
            assert words - {"a", "an"} == before - {"a", "an"}
