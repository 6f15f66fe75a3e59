"""Retrieval by columns of captions: loops, shared pictures, and what is refused."""

from __future__ import annotations

import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast.data.columns import Columns
from mmcontrast.errors import DataError
from mmcontrast.evaluation.tasks import Evaluation, run_tasks

EN, DE = "captions", "captions_de"


def source(n: int = 14) -> FakeSource:
    """English is right and has two captions; German has one, right for even pictures; picture 3 has no German."""
    texts = [[f"number {i}", f"{i} again", f"die {i if i % 2 == 0 else (i + 2) % n}"] for i in range(n)]
    numbers = [[0, 0, 1] for _ in range(n)]
    texts[3], numbers[3] = texts[3][:2], [0, 0]
    return FakeSource(list(range(n)), texts, columns=Columns("image", (EN, DE)), column_numbers=numbers)


def evaluate(data: FakeSource, positives: str = "id") -> Evaluation:
    return run_tasks(FakeEncoder(), data, ["multilingual"], positives=positives)


def best(queries: list[int], gallery: list[int], k: int) -> list[list[int]]:
    """The places of the k nearest of the gallery for each query, all being codes of the encoder."""
    vectors = FakeEncoder().vectors.detach().double()
    scores = vectors[queries] @ vectors[gallery].T
    return [row.argsort(descending=True, stable=True)[:k].tolist() for row in scores]


def test_recalls_are_those_of_the_literal_loop() -> None:
    found = evaluate(source()).results["multilingual"]
    pictures = [i for i in range(14) if i != 3]
    said = [i if i % 2 == 0 else (i + 2) % 14 for i in pictures]  # in German
    english = [i for i in pictures for _ in range(2)]
    owners = [place for place in range(13) for _ in range(2)]
    for k in (1, 5, 10):
        hits = [place in row for place, row in enumerate(best(said, pictures, k))]
        assert found[f"{DE}/text_to_image_recall@{k}"] == pytest.approx(sum(hits) / 13)
        # Two German captions may be equal, and a tie is lost: only a caption that says it alone is found.
        alone = [said[p] == pictures[p] and said.count(said[p]) == 1 for p in range(13)]
        if k == 1:
            assert found[f"{DE}/image_to_text_recall@1"] == pytest.approx(sum(alone) / 13)
        crossed = [any(owners[j] == place for j in row) for place, row in enumerate(best(said, english, 2 * k))]
        if k == 1:  # both English captions of a picture are the same to the encoder
            assert found[f"{DE}->{EN}/recall@1"] == pytest.approx(sum(crossed) / 13)
    assert 0.3 < sum(alone) / 13 < sum(hits) / 13 < 1  # a case that can tell right from wrong
    assert found[f"{EN}/mean_recall"] == 1.0
    assert found["mean_recall"] == pytest.approx((1.0 + found[f"{DE}/mean_recall"]) / 2)  # type: ignore[operator]
    both = [found[f"{DE}->{EN}/recall@1"], found[f"{EN}->{DE}/recall@1"]]
    assert found["cross_lingual_recall@1"] == pytest.approx(sum(both) / 2)  # type: ignore[arg-type]


def test_only_pictures_with_all_columns_take_part_and_that_is_said() -> None:
    data = source()
    data.codes[0] = None
    found = evaluate(data)
    assert found.notes[1:] == [
        "multilingual: 1 of 13 pictures lack a caption in some column and are out",
        f"multilingual: captions of a picture: 2 of {EN}, 1 of {DE}; of more captions one is found more easily",
    ]
    pictures = found.details["multilingual"].items[f"{DE}/text_to_image_recall@1"].pictures
    assert found.data.positions[pictures].tolist() == [i for i in range(14) if i not in (0, 3)]


def test_positives_by_group_hold_between_columns() -> None:
    data = source()
    assert data.texts[5][2] == "die 7"
    data.groups = ["odd" if i % 2 else str(i) for i in range(14)]
    found = evaluate(data, "group").results["multilingual"]
    assert found[f"{DE}/text_to_image_recall@1"] == found[f"{DE}->{EN}/recall@1"] == 1.0


def test_small_galleries() -> None:
    found = evaluate(source(4))
    assert found.results["multilingual"][f"{DE}/text_to_image_recall@5"] is None
    assert found.results["multilingual"]["text_to_image_recall@5"] is None
    assert "multilingual: recall at 5, 10 is not defined among 3 pictures" in found.notes
    with pytest.raises(DataError, match=r"recall@10: k must be between 1 and the gallery's size, 6 captions"):
        run_tasks(FakeEncoder(), source(4), ["multilingual"], strict=True)


def test_mistakes() -> None:
    encoder, single = FakeEncoder(), FakeSource([1, 2], [["1"], ["2"]])
    with pytest.raises(DataError, match=r"fake.parquet: multilingual compares columns of captions: name two or more"):
        run_tasks(encoder, single, ["multilingual"])
    assert encoder.image_batches == []  # before anything is embedded
    data = source(4)
    data.column_numbers = [[0, 0, 0] for _ in range(4)]
    data.column_numbers[3] = [0, 0]
    with pytest.raises(DataError, match=r"no picture has captions in all of captions, captions_de: leave one out, say "
                                        r"captions_de, which 0 of 4"):  # fmt: skip
        run_tasks(encoder, data, ["multilingual"])


def test_captions_are_embedded_once() -> None:
    encoder = FakeEncoder()
    run_tasks(encoder, source(), ["multilingual", "retrieval"])
    assert [len(batch) for batch in encoder.text_batches] == [len(set(torch.arange(14).tolist())) * 3 - 1]
