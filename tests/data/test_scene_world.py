from __future__ import annotations

from random import Random

import pytest

from mmcontrast.data.scene_world import (
    INVERSE,
    MIDDLE,
    CaptionMeaning,
    PartialObject,
    Scene,
    SceneObject,
    describes,
    draw_scene,
    pick,
    pick_weighted,
)

STAR = SceneObject("star", "red", "striped", "large", 0.3, 0.5, 0.45)
HEART = SceneObject("heart", "blue", "plain", "small", 0.75, 0.5, 0.3)
RING = SceneObject("ring", "red", "plain", "large", 0.5, 0.5, 0.7)
SCENE = Scene((STAR, HEART), "grass")
RED, BLUE = PartialObject(colour="red"), PartialObject(colour="blue")


@pytest.mark.parametrize(
    ("meaning", "true"),
    [
        (CaptionMeaning((RED,)), True),
        (CaptionMeaning((PartialObject("star", "red", "striped", "large", "left"),)), True),
        (CaptionMeaning((PartialObject("star", position="centre"),)), False),
        (CaptionMeaning((PartialObject("star", "blue"),)), False),  # the colour of the other object
        (CaptionMeaning((RED,), background="grass"), True),
        (CaptionMeaning((RED,), background="sand"), False),
        (CaptionMeaning((RED, BLUE), "left of"), True),
        (CaptionMeaning((BLUE, RED), "left of"), False),
        (CaptionMeaning((BLUE, RED), "right of"), True),
        (CaptionMeaning((RED, BLUE), "above"), False),
        (CaptionMeaning((RED, RED)), False),  # two red things are two different ones
        (CaptionMeaning((RED, BLUE, PartialObject())), False),  # three things, and there are two
    ],
)
def test_describes(meaning: CaptionMeaning, true: bool) -> None:
    assert describes(meaning, SCENE) is true


def test_small_object_is_inside_a_ring_and_in_front_of_others() -> None:
    assert Scene((RING, HEART), "sky", stacked=True).relation(1, 0) == "inside"
    assert Scene((RING, HEART), "sky", stacked=True).relation(0, 1) == "around"
    assert Scene((STAR, HEART), "sky", stacked=True).relation(1, 0) == "in front of"


def test_drawn_scenes_leave_no_position_or_relation_in_doubt() -> None:
    random, margin = Random(5), 0.02
    for _ in range(500):
        scene = draw_scene(random)
        for thing in scene.objects:
            for at in (thing.x, thing.y):
                assert min(abs(at - edge) for edge in MIDDLE) > margin
        for a in range(len(scene.objects)):
            for b in range(len(scene.objects)):
                if a != b:
                    assert scene.relation(a, b) == INVERSE[scene.relation(b, a)]
                    dx = abs(scene.objects[a].x - scene.objects[b].x)
                    dy = abs(scene.objects[a].y - scene.objects[b].y)
                    assert scene.stacked or max(dx, dy) > 1.35 * min(dx, dy)


def test_only_stacked_objects_touch_each_other() -> None:
    random = Random(6)
    for _ in range(500):
        scene = draw_scene(random)
        for a, b in zip(scene.objects, scene.objects[1:], strict=False):
            apart = max(abs(a.x - b.x), abs(a.y - b.y)) - (a.diameter + b.diameter) / 2
            assert scene.stacked or apart > 0


def test_description_ignores_order_and_jitter() -> None:
    moved = SceneObject("star", "red", "striped", "large", 0.28, 0.52, 0.44)
    assert Scene((HEART, moved), "grass").description() == SCENE.description()
    assert Scene((STAR, HEART), "sand").description() != SCENE.description()


def test_weighted_pick_follows_its_weights() -> None:
    random = Random(7)
    drawn = [pick_weighted(random, {"a": 3, "b": 1, "never": 0}) for _ in range(4000)]
    assert drawn.count("never") == 0
    assert drawn.count("a") / 4000 == pytest.approx(0.75, abs=0.03)
    assert {pick(random, "xyz") for _ in range(100)} == set("xyz")
