"""Retrieval against the definition written out in loops; chunks, memory, and error messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmcontrast.errors import DataError, ModelError
from mmcontrast.evaluation import retrieval
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.positives import PositiveKeys, caption_keys, id_keys, value_keys
from mmcontrast.evaluation.retrieval import best_matches, retrieval_metrics

CAPTIONS_PER_IMAGE = 5


def random_case(n: int = 30, d: int = 16, noise: float = 1.0) -> tuple[Tensor, Tensor, PositiveKeys]:
    """n pictures with five captions each, captions somewhat near their pictures."""
    rng = torch.Generator().manual_seed(n)
    image = torch.nn.functional.normalize(torch.randn(n, d, generator=rng), dim=-1)
    text_images = torch.arange(n).repeat_interleave(CAPTIONS_PER_IMAGE)
    text = image[text_images] + noise * torch.randn(len(text_images), d, generator=rng)
    return image, torch.nn.functional.normalize(text, dim=-1), id_keys(text_images, n)


def literal_recalls(image: Tensor, text: Tensor, ks: tuple[int, ...]) -> dict[str, float]:
    """CLIP_benchmark's definition, in words: a caption is found when its own picture is among the k best pictures; a
    picture is found when at least one of its own captions is among the k best captions."""
    scores = (image.double() @ text.double().T).tolist()
    n, m = len(image), len(text)
    found = {}
    for k in ks:
        image_hits = 0
        for i in range(n):
            best = sorted(range(m), key=lambda j: -scores[i][j])[:k]
            image_hits += any(j // CAPTIONS_PER_IMAGE == i for j in best)
        text_hits = 0
        for j in range(m):
            best = sorted(range(n), key=lambda i: -scores[i][j])[:k]
            text_hits += any(j // CAPTIONS_PER_IMAGE == i for i in best)
        found[f"image_to_text_recall@{k}"] = image_hits / n
        found[f"text_to_image_recall@{k}"] = text_hits / m
    return found


def test_recalls_are_those_of_clip_benchmark() -> None:
    image, text, keys = random_case()
    found = retrieval_metrics(image, text, keys)
    expected = literal_recalls(image, text, (1, 5, 10))
    assert 0.1 < expected["text_to_image_recall@1"] < 0.9  # a case that can tell right from wrong
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    assert found["mean_recall"] == pytest.approx(sum(expected.values()) / 6)


def test_names_are_those_agreed() -> None:
    found = retrieval_metrics(*random_case())
    one_way = ["recall@1", "recall@5", "recall@10", "mean_rank", "median_rank", "map@r", "r_precision"]
    expected = {f"{way}_{name}" for way in ("image_to_text", "text_to_image") for name in one_way}
    assert set(found) == expected | {"map@r", "r_precision", "mean_recall"}
    assert all(isinstance(value, float) for value in found.values())
    maps = [found["image_to_text_map@r"], found["text_to_image_map@r"]]
    assert found["map@r"] == pytest.approx(sum(maps) / 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [7, 2])  # by tiles, and by whole rows
def test_r_precision_is_the_share_of_twins_among_the_r_best(classes: int) -> None:
    """Pictures of a few classes, near-duplicates of one another: positives by label, both ways, in loops."""
    rng = torch.Generator().manual_seed(0)
    labels = (torch.arange(20) % classes).tolist()
    text_images = torch.arange(20).repeat_interleave(CAPTIONS_PER_IMAGE)
    image = torch.randn(classes, 16, generator=rng)[labels] + torch.randn(20, 16, generator=rng)
    text = image[text_images] + 2 * torch.randn(len(text_images), 16, generator=rng)
    image, text = (torch.nn.functional.normalize(features, dim=-1) for features in (image, text))
    of_text = [labels[i] for i in text_images.tolist()]
    scores = (image.double() @ text.double().T).tolist()

    def literal(rows: list[list[float]], own: list[int], other: list[int]) -> float:
        shares = []
        for row, label in zip(rows, own, strict=True):
            size = other.count(label)
            best = sorted(range(len(row)), key=lambda j: -row[j])[:size]
            shares.append(sum(other[j] == label for j in best) / size)
        return sum(shares) / len(shares)

    expected = (
        literal(scores, labels, of_text),
        literal([list(row) for row in zip(*scores, strict=True)], of_text, labels),
    )
    for chunk in (None, 3):
        found = retrieval_metrics(image, text, value_keys(text_images, labels), chunk=chunk)
        assert (found["image_to_text_r_precision"], found["text_to_image_r_precision"]) == pytest.approx(expected)
        assert found["r_precision"] == pytest.approx(sum(expected) / 2)
    assert 1.3 / classes < min(expected) < max(expected) < 0.9


def test_perfect_features_are_perfect_under_each_rule() -> None:
    image = torch.eye(12)
    text_images = torch.arange(12).repeat_interleave(5)
    captions = [f"caption {i}" for i in range(60)]
    for keys in (id_keys(text_images, 12), caption_keys(text_images, captions, 12), value_keys(text_images, range(12))):
        found = retrieval_metrics(image, image[text_images], keys)
        assert found == dict.fromkeys(found, 1.0)


def test_constant_features_earn_nothing() -> None:
    found = retrieval_metrics(torch.ones(20, 4), torch.ones(100, 4), random_case(20)[2])
    assert found["mean_recall"] == 0.0
    assert found["map@r"] == 0.0
    assert found["text_to_image_mean_rank"] == 20.0
    assert found["image_to_text_median_rank"] == 96.0  # behind the 95 captions of other pictures


def test_random_features_are_near_chance() -> None:
    n = 200
    rng = torch.Generator().manual_seed(0)
    found = retrieval_metrics(
        torch.randn(n, 32, generator=rng), torch.randn(5 * n, 32, generator=rng), random_case(n)[2]
    )
    assert found["text_to_image_recall@10"] == pytest.approx(10 / n, abs=0.03)
    assert found["text_to_image_mean_rank"] == pytest.approx((n + 1) / 2, rel=0.05)
    assert found["image_to_text_recall@10"] == pytest.approx(1 - (1 - 10 / (5 * n)) ** 5, abs=0.05)


def many_ties(n: int = 60) -> tuple[Tensor, Tensor, PositiveKeys]:
    """Six different pictures, repeated: every score has equals, in irrational coordinates."""
    rng = torch.Generator().manual_seed(0)
    image, text, _ = random_case(6, d=48)
    pick = torch.randint(6, (n,), generator=rng)
    texts = torch.randint(len(text), (2 * n,), generator=rng)
    return image[pick], text[texts], value_keys(torch.arange(2 * n) % n, (torch.arange(n) % 7).tolist())


@pytest.mark.parametrize("chunk", [1, 7, 59, 10_000])
def test_chunk_changes_nothing(chunk: int) -> None:
    for image, text, keys in (random_case(), many_ties()):
        assert retrieval_metrics(image, text, keys, chunk=chunk) == retrieval_metrics(image, text, keys, chunk=16)


def test_order_of_pictures_and_captions_changes_nothing() -> None:
    image, text, keys = many_ties()
    rng = torch.Generator().manual_seed(3)
    i, t = torch.randperm(len(image), generator=rng), torch.randperm(len(text), generator=rng)
    shuffled = retrieval_metrics(image[i], text[t], PositiveKeys(keys.image[i], keys.text[t]))
    assert shuffled == pytest.approx(retrieval_metrics(image, text, keys), abs=1e-12)


def test_length_of_features_changes_nothing() -> None:
    image, text, keys = random_case()
    assert retrieval_metrics(image * 9, text / 3, keys) == pytest.approx(retrieval_metrics(image, text, keys))


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_no_tensor_is_larger_than_the_features_or_a_tile() -> None:
    image, text, keys = random_case(300, d=8)
    with LargestTensor() as watch:
        retrieval_metrics(image, text, keys, chunk=10)
    assert watch.elements == text.numel()  # 12 000; of scores there are 450 000 in all
    with LargestTensor() as watch:
        retrieval_metrics(image, text, keys, chunk=200)
    assert watch.elements <= 2 * 200**2  # a tile, filled up to whole blocks
    with LargestTensor() as watch:
        best_matches(image, text, 5, chunk=10)
    assert watch.elements == 10 * len(text)


@pytest.mark.parametrize("listed", [0, 1 << 20])
def test_rows_with_many_positives_take_another_way_to_the_same_numbers(
    listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [retrieval_metrics(*case) for case in (random_case(), many_ties())]
    monkeypatch.setattr(retrieval, "_LISTED_PER_ROW", listed)
    monkeypatch.setattr(retrieval, "_LISTED_WIDTH", listed)
    for case, found in zip((random_case(), many_ties()), expected, strict=True):
        assert retrieval_metrics(*case) == pytest.approx(found, abs=1e-12)


def test_progress_counts_every_picture() -> None:
    image, text, keys = random_case(30)
    for chunk in (7, 1000):
        done: list[int] = []
        retrieval_metrics(image, text, keys, chunk=chunk, progress=done.append)
        assert sum(done) == 30
        assert len(done) == -(-30 // chunk)


def test_one_caption_rule_finds_what_the_id_rule_misses() -> None:
    image, text_images = torch.eye(2), torch.tensor([0, 1])
    text = torch.eye(2).flip(0)  # each caption is nearest to the other picture
    assert retrieval_metrics(image, text, id_keys(text_images, 2), ks=[1])["mean_recall"] == 0.0
    same = caption_keys(text_images, ["a dog", "a dog"], 2)
    assert retrieval_metrics(image, text, same, ks=[1])["mean_recall"] == 1.0


def test_k_above_the_gallery_is_an_error_or_none() -> None:
    image, text, keys = random_case(8)
    with pytest.raises(DataError, match="recall@10: k must be between 1 and the gallery's size, 8 pictures"):
        retrieval_metrics(image, text, keys)
    found = retrieval_metrics(image, text, keys, strict=False)
    assert found["text_to_image_recall@10"] is None
    known: Metrics = {name: value for name, value in found.items() if "recall@" in name and value is not None}
    assert len(known) == 5  # 40 captions are enough for recall@10 the other way
    assert found["mean_recall"] == pytest.approx(sum(known.values()) / 5)  # type: ignore[arg-type]


def test_query_without_positive_is_an_error() -> None:
    with pytest.raises(DataError, match="image 1 has no positive in the gallery"):
        retrieval_metrics(torch.eye(2), torch.eye(2), id_keys(torch.tensor([0, 0]), 2), ks=[1])
    with pytest.raises(DataError, match="text 1 has no positive in the gallery"):
        retrieval_metrics(
            torch.eye(2), torch.eye(2), PositiveKeys(torch.tensor([[1], [1]]), torch.tensor([1, 2])), ks=[1]
        )


def test_wrong_features_are_errors() -> None:
    image, text, keys = random_case()
    broken = text.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ModelError, match=r"text features are not finite in 1 of 150 rows, first in row 3"):
        retrieval_metrics(image, broken, keys)
    with pytest.raises(DataError, match="do not fit the keys of 30 pictures and 150 texts"):
        retrieval_metrics(image[1:], text, keys)
    with pytest.raises(DataError, match="image features have 16 dimensions, text features 8"):
        retrieval_metrics(image, text[:, :8], keys)
    with pytest.raises(DataError, match="no image features to evaluate"):
        retrieval_metrics(image[:0], text, keys)
    with pytest.raises(DataError, match="chunk is 0"):
        retrieval_metrics(image, text, keys, chunk=0)


def test_best_matches_are_the_best_and_in_order() -> None:
    image, text, _ = random_case()
    positions, cosines = best_matches(image, text, 7, chunk=4)
    expected = (image.double() @ text.double().T).topk(7)
    assert torch.equal(positions, expected.indices)
    torch.testing.assert_close(cosines, expected.values, rtol=0, atol=2e-7)
    assert best_matches(torch.ones(1, 2), torch.ones(3, 2), 10)[0].tolist() == [[0, 1, 2]]  # a tie, a small gallery
