"""What is injected into batches, and what is held out."""

from __future__ import annotations

from pathlib import Path

import negatives_data
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from negatives_data import CLASS_WORDS, TwinSampler, missing, prepared, split_rows, with_twins
from negatives_truth import TruthKeys

from mmcontrast.data import Draw, GlobalBatchSampler, open_source
from mmcontrast.data.scenes import SceneSource
from mmcontrast.data.scenes import describes as is_true


def couples(indices: list[int]) -> int:
    return sum(index ^ 1 in set(indices) for index in indices) // 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_a_share_of_the_batch_has_its_twin(share: float) -> None:
    rng = np.random.default_rng(0)
    batch = (2 * rng.permutation(500)[:100] + rng.integers(0, 2, 100)).tolist()
    assert couples(batch) == 0
    found = with_twins(batch, share, rng)
    assert couples(found) == round(share * 50)
    assert len(set(found)) == len(batch)
    assert len(set(found) - set(batch)) == round(share * 50)  # the rest is as it was


def test_couples_that_met_by_chance_stay() -> None:
    found = with_twins([0, 1, *range(10, 50, 2)], 0.2, np.random.default_rng(0))
    assert {0, 1} <= set(found)
    assert couples(found) == 1 + 2


def test_batches_do_not_depend_on_where_a_run_begins() -> None:
    inner = GlobalBatchSampler(200, 20, seed=3)
    sampler = TwinSampler(inner, 0.5, seed=3)
    inner.set_epoch(1)
    whole = list(sampler)
    inner.set_epoch(1, start_batch=4)
    assert list(sampler) == whole[4:]
    assert len(sampler) == len(whole) == 10
    assert all(isinstance(draw, Draw) and draw.epoch == 1 for batch in whole for draw in batch)
    inner.set_epoch(2)
    assert list(sampler) != whole


def test_tuning_rows_are_a_part_of_the_training_rows() -> None:
    kept, held_out = split_rows(200, tuning=True)
    assert len(held_out) == 30
    assert sorted(kept + held_out) == list(range(200))
    assert split_rows(200, tuning=False) == (list(range(200)), [])


def picture(i: int) -> dict[str, object]:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (i % 250, 0, 0)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{i}.png"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files like the shared ones, of few rows."""
    names = list(CLASS_WORDS)
    for part, first, count in (("train", 0, 40), ("val", 1000, 10)):
        rows = range(first, first + count)
        table = pa.table(
            {
                "image": [picture(i) for i in rows],
                "captions": [[f"caption {k} of {i}" for k in range(5)] for i in rows],
                "label_name": [names[i % len(names)] for i in rows],
            }
        )
        for dataset in ("flickr8k", "cifar10"):
            (tmp_path / dataset).mkdir(exist_ok=True)
            own = table.drop(["captions"]) if dataset == "cifar10" else table.drop(["label_name"])
            pq.write_table(own, tmp_path / dataset / f"{part}.parquet")
    monkeypatch.setattr(negatives_data, "DATA", tmp_path)
    return tmp_path


def test_twins_are_rows_of_one_picture_with_different_captions(data: Path) -> None:
    train, validation = prepared("flickr8k", data / "cache", tuning=False)
    source = open_source(train, label_column="twin")
    assert len(source) == 80
    assert source.image(6) == source.image(7)
    assert source.label(6) == source.label(7) == 3
    assert source.group(6) is None  # nothing but the oracle may know
    assert source.captions(6) == [f"caption {k} of 3" for k in (0, 1, 2)]
    assert source.captions(7) == [f"caption {k} of 3" for k in (3, 4)]
    assert len(open_source(validation)) == 10


def test_tuning_holds_out_whole_pictures_and_never_sees_the_validation_rows(data: Path) -> None:
    train, held_out = prepared("flickr8k", data / "cache", tuning=True)
    training, tuning = open_source(train, label_column="twin"), open_source(held_out)
    assert (len(training), len(tuning)) == (68, 6)
    seen = {caption for i in range(len(training)) for caption in training.captions(i)}
    measured = {caption for i in range(len(tuning)) for caption in tuning.captions(i)}
    assert not seen & measured
    assert not any(" of 10" in caption and len(caption.split()[-1]) == 4 for caption in seen | measured)


def test_class_captions_name_the_class_in_different_words(data: Path) -> None:
    train, validation = prepared("cifar10", data / "cache", tuning=False)
    for file in (train, validation):
        source = open_source(file, label_column="label_name")
        assert sorted(source.label_names or []) == sorted(CLASS_WORDS)
        for i in range(len(source)):
            captions = source.captions(i)
            label = source.label(i)
            assert label is not None
            words = CLASS_WORDS[(source.label_names or [])[label]]
            assert len(set(captions)) == 3
            assert all(any(word in caption for word in words) for caption in captions)


def test_absent_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives_data, "DATA", tmp_path)
    assert "MMCONTRAST_DATA" in (missing("ucm_captions") or "")
    assert missing("scenes") is None


def test_truth_of_scenes_is_that_of_their_captions() -> None:
    source = SceneSource(12, "validation", image_size=16)
    keys = TruthKeys.of(source)
    said = [(i, meaning) for i in range(12) for meaning in source.meanings(i)]
    assert keys.truth.shape == (12, len(said))
    for i in range(12):
        for j, (_, meaning) in enumerate(said):
            assert bool(keys.image_queries(i, i + 1)[0, j]) == is_true(meaning, source.scene(i))
            assert bool(keys.text_queries(j, j + 1)[0, i]) == is_true(meaning, source.scene(i))
    assert all(keys.truth[i, j] for j, (i, _) in enumerate(said))
