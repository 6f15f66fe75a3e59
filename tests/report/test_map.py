from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmcontrast.report.map import picture_map


def pictures(count: int, size: tuple[int, int] = (200, 120)) -> list[Image.Image]:
    return [Image.new("RGB", size, (5 * i % 256, 60, 200)) for i in range(count)]


def points(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)


def test_each_dot_finds_its_tile_in_the_sheet() -> None:
    shown = picture_map("m", pictures(11), points(11), captions=[f"c{i}" for i in range(11)])
    sheet = Image.open(io.BytesIO(shown.sheet))
    assert shown.tiles == 4
    side = sheet.width // 4
    for i, dot in enumerate(shown.dots):
        # CSS: a position of p % puts the point at p % of the image on the one at p % of the box
        x, y = dot.column / 100 * (sheet.width - side), dot.row / 100 * (sheet.height - side)
        red, _, _ = sheet.getpixel((round(x) + side // 2, round(y) + side // 2))
        assert red == pytest.approx(5 * i, abs=6)
        assert dot.caption == f"c{i}"


def test_small_pictures_are_not_blown_up_and_are_said_to_be_small() -> None:
    shown = picture_map("m", pictures(4, (28, 28)), points(4))
    assert Image.open(io.BytesIO(shown.sheet)).size == (56, 56)
    assert shown.small
    assert not picture_map("m", pictures(4), points(4)).small


def test_all_lies_within_the_map_and_up_is_up() -> None:
    far = np.concatenate([points(500), [[1e6, -1e6]]]).astype(np.float32)
    shown = picture_map("m", pictures(501, (8, 8)), far, text_points=points(501, 1))
    places = [(dot.x, dot.y, dot.text_x, dot.text_y) for dot in shown.dots]
    assert all(2 <= value <= 98 for place in places for value in place if value is not None)
    assert shown.dots[500].y == 98.0
    assert shown.dots[500].x == 98.0


def test_classes_have_colours_of_their_own_and_a_legend() -> None:
    classes = ["b", "a", "a", "", "c"]
    shown = picture_map("m", pictures(5), points(5), classes=classes, anchors=(points(3), ["a", "b", "d"]), left_out=7)
    hues = {dot.title: dot.hue for dot in shown.dots}
    assert hues[""] is None
    assert len({hues["a"], hues["b"], hues["c"]}) == 3
    assert [anchor.hue for anchor in shown.anchors][:2] == [hues["a"], hues["b"]]
    assert [(name, count) for name, _, count in shown.legend] == [("a", 2), ("b", 1), ("c", 1)]
    assert (shown.kind, shown.left_out, shown.more) == ("class", 7, 0)
    many = picture_map("m", pictures(40, (8, 8)), points(40), classes=[f"class {i}" for i in range(40)])
    assert (len(many.legend), many.more) == (24, 16)


def test_clusters_colour_but_do_not_name_the_dots() -> None:
    shown = picture_map("m", pictures(3), points(3), classes=["1: a dog", "2", "2"], kind="cluster")
    assert [dot.title for dot in shown.dots] == ["", "", ""]
    assert shown.legend[0][0] == "2"
