from __future__ import annotations

import pytest

from mmcontrast.data.columns import Columns, Wanted, choose_columns, drop_coarse_group, prefer_label_text
from mmcontrast.errors import DataError


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["image", "caption"], ("image", ("caption",), None, None)),
        (["id", "captions_de", "captions", "image", "label", "label_name"], ("image", ("captions",), "label", None)),
        (["File_Name", "Text", "Category"], ("File_Name", ("Text",), "Category", None)),
        (["filepath", "title", "group_id"], ("filepath", ("title",), None, "group_id")),
        (["img", "caption_0", "caption_1", "product_id"], ("img", ("caption_0", "caption_1"), None, None)),
        (["picture", "caption_en"], ("picture", ("caption_en",), None, None)),
        (["image", "label"], ("image", (), "label", None)),
        (["url", "image", "description"], ("image", ("description",), None, None)),
    ],
)
def test_guesses(found: list[str], expected: tuple[str, tuple[str, ...], str | None, str | None]) -> None:
    columns = choose_columns(found, Wanted(), "data.csv")
    assert (columns.image, columns.captions, columns.label, columns.group) == expected
    assert columns.guessed[0] == "image"


def test_named_columns_are_taken_and_not_called_guessed() -> None:
    wanted = Wanted(image="b", captions=("c", "d"), label="", group="e")
    columns = choose_columns(["image", "b", "c", "d", "e", "label", "caption"], wanted, "x")
    assert columns == Columns("b", ("c", "d"), None, "e", ())
    assert columns.describe() == "image = b, captions = c + d, group = e"
    assert "image = image (guessed)" in choose_columns(["image", "text"], Wanted(), "x").describe()


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (["a", "caption"], Wanted(), r"x: no column looks like pictures .*data.image_column.*found: 'a', 'caption'"),
        (["image", "b"], Wanted(), r"x: no column looks like captions .*data.caption_column.*found: 'image', 'b'"),
        (["image", "caption"], Wanted(captions=("Captions",)), r"x: no column 'Captions'; columns found: 'image'"),
        (["image", "caption"], Wanted(label="y"), r"no column 'y'"),
        ([], Wanted(), "columns found: none"),
    ],
)
def test_errors_name_the_columns_found(found: list[str], wanted: Wanted, message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose_columns(found, wanted, "x")


def test_a_column_called_group_is_only_believed_if_its_groups_are_small() -> None:
    columns = choose_columns(["image", "caption", "group"], Wanted(), "x")
    assert drop_coarse_group(columns, [i // 5 for i in range(100)]).group == "group"
    coarse = drop_coarse_group(columns, [i % 3 for i in range(100)])
    assert coarse.group is None
    assert "group" not in coarse.guessed
    named = choose_columns(["image", "caption", "group"], Wanted(group="group"), "x")
    assert drop_coarse_group(named, [1] * 100).group == "group"


def test_label_text_beside_a_bare_number() -> None:
    columns = choose_columns(["image", "label", "label_name"], Wanted(), "x")
    assert prefer_label_text(columns, ["image", "label", "label_name"], has_names=False).label == "label_name"
    assert prefer_label_text(columns, ["image", "label", "label_name"], has_names=True).label == "label"
    named = choose_columns(["image", "label", "label_name"], Wanted(label="label"), "x")
    assert prefer_label_text(named, ["image", "label", "label_name"], has_names=False).label == "label"
