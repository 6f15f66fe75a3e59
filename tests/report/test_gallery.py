from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.report import retrieval_examples
from mmcontrast.report.gallery import encode_thumbnail

OWNERS = [0, 0, 1, 1, 2, 2, 3, 3]
CAPTIONS = [f"caption {j}" for j in range(8)]


def features(seed: int, rows: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def picture(i: int) -> Image.Image:
    return Image.new("RGB", (20, 20), (60 * i, 0, 0))


def test_ranks_and_hits_against_a_literal_loop() -> None:
    images, texts = features(0, 4), features(1, 8)
    pair = retrieval_examples(images, texts, OWNERS, picture, CAPTIONS, count=8, top=3)
    assert len(pair.image_queries) == 4  # all there are
    assert len(pair.text_queries) == 8
    for i, example in enumerate(pair.image_queries):
        scores = [float(texts[j] @ images[i]) for j in range(8)]
        order = sorted(range(8), key=lambda j: -scores[j])
        assert example.rank == 1 + min(order.index(j) for j in range(8) if OWNERS[j] == i)
        assert [item.caption for item in example.items] == [CAPTIONS[j] for j in order[:3]]
        assert [item.hit for item in example.items] == [OWNERS[j] == i for j in order[:3]]
        assert [item.score for item in example.items] == pytest.approx([scores[j] for j in order[:3]])
        assert example.captions == [CAPTIONS[j] for j in range(8) if OWNERS[j] == i]
        assert example.gallery_size == 8
    for j, example in enumerate(pair.text_queries):
        order = sorted(range(4), key=lambda i: -float(texts[j] @ images[i]))
        assert example.rank == 1 + order.index(OWNERS[j])
        assert [item.hit for item in example.items] == [i == OWNERS[j] for i in order[:3]]
        assert [item.thumbnail for item in example.items] == [encode_thumbnail(picture(i)) for i in order[:3]]
        assert example.thumbnail == encode_thumbnail(picture(OWNERS[j]))


def test_given_positives_decide_on_hits_and_ranks() -> None:
    images, texts = features(2, 4), features(3, 8)
    everything = retrieval_examples(
        images,
        texts,
        OWNERS,
        picture,
        CAPTIONS,
        image_positives=lambda i: torch.ones(8, dtype=torch.bool),
        text_positives=lambda j: torch.arange(4) == 0,
    )
    for example in everything.image_queries:
        assert example.rank == 1
        assert all(item.hit for item in example.items)
    for j, example in enumerate(everything.text_queries):
        scores = [float(texts[j] @ images[i]) for i in range(4)]
        assert example.rank == 1 + sum(score > scores[0] for score in scores)


def test_ties_go_against_the_query() -> None:
    pair = retrieval_examples(torch.ones(4, 1), torch.ones(8, 1), OWNERS, picture, CAPTIONS, count=8)
    for example in pair.text_queries:
        assert example.rank == 4
        assert [item.hit for item in example.items] == [False, False, False, True]
    for example in pair.image_queries:
        assert example.rank == 7
        assert not any(item.hit for item in example.items)


def test_sample_depends_on_the_seed_and_only_shown_pictures_are_asked_for() -> None:
    images, texts = features(2, 50), features(3, 50)
    asked: list[int] = []

    def watch(i: int) -> Image.Image:
        asked.append(i)
        return picture(i % 4)

    def queries(seed: int) -> list[list[str]]:
        captions = [f"c{i}" for i in range(50)]
        pair = retrieval_examples(images, texts, range(50), watch, captions, count=2, seed=seed)
        return [list(example.captions) for example in (*pair.image_queries, *pair.text_queries)]

    assert queries(0) == queries(0)
    asked.clear()
    assert queries(0) != queries(1)
    assert len(asked) <= 2 * (2 + 2 * 6)


def test_thumbnails_are_small_jpegs() -> None:
    thumbnail = Image.open(io.BytesIO(encode_thumbnail(Image.new("RGBA", (900, 300), "red"))))
    assert thumbnail.format == "JPEG"
    assert thumbnail.size == (160, 53)
    assert Image.open(io.BytesIO(encode_thumbnail(Image.new("L", (64, 64))))).size == (64, 64)


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="8 captions, 7 text features, 8 image ids"):
        retrieval_examples(features(0, 4), features(1, 7), OWNERS, picture, CAPTIONS)
    with pytest.raises(DataError, match=r"must lie in 0\.\.2"):
        retrieval_examples(features(0, 3), features(1, 8), OWNERS, picture, CAPTIONS)
