from __future__ import annotations

from random import Random

from mmcontrast.data.scene_captions import draw_meaning, word_meaning
from mmcontrast.data.scene_world import CaptionMeaning, PartialObject, describes, draw_scene


def wordings(meaning: CaptionMeaning, count: int = 400) -> set[str]:
    random = Random(1)
    return {word_meaning(random, meaning).lower() for _ in range(count)}


def test_one_meaning_has_many_wordings() -> None:
    meaning = CaptionMeaning((PartialObject("circle", "orange", "striped", "small", "left"),), None, "night")
    texts = wordings(meaning)
    assert len(texts) > 100
    for text in texts:
        assert any(word in text for word in ("circle", "disc"))
        assert any(word in text for word in ("stripe", "stripy"))
        assert any(word in text for word in ("orange", "tangerine"))
        assert "night" in text
        assert "left" in text


def test_relation_names_the_first_object_first() -> None:
    meaning = CaptionMeaning((PartialObject("star"), PartialObject("heart")), "above")
    for text in wordings(meaning):
        assert text.index("star") < text.index("heart")
        assert any(word in text for word in ("above", "over"))


def test_articles_and_numbers_agree() -> None:
    single = CaptionMeaning((PartialObject("arrow"),))
    assert all("an arrow" in text for text in wordings(single))
    pair = CaptionMeaning((PartialObject("star"), PartialObject("arrow")))
    assert not any("there is" in text or "is shown" in text for text in wordings(pair))


def test_drawn_meanings_are_true_and_vary() -> None:
    random = Random(2)
    for _ in range(100):
        scene = draw_scene(random)
        meanings = [draw_meaning(random, scene) for _ in range(20)]
        assert all(describes(meaning, scene) for meaning in meanings)
        assert len(set(meanings)) > 5
        assert all(said.shape or said.colour for meaning in meanings for said in meaning.objects)
