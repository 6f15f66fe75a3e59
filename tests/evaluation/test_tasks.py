from __future__ import annotations

import json

import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast.errors import DataError
from mmcontrast.evaluation.feature_memory import FeatureMemory
from mmcontrast.evaluation.tasks import embed_data, run_tasks


def labelled_source(n: int = 12) -> FakeSource:
    """Row i shows code i, which is also its class; two captions each."""
    return FakeSource(
        codes=list(range(n)),
        texts=[[f"number {i}", f"a picture of {i}"] for i in range(n)],
        labels=list(range(n)),
        label_names=[f"class_{i}" for i in range(n)],
    )


def test_a_perfect_encoder_is_perfect_in_all_tasks() -> None:
    found = run_tasks(FakeEncoder(), labelled_source(), ["retrieval", "zero_shot"], batch_size=5)
    assert found.results["retrieval"] == dict.fromkeys(found.results["retrieval"], 1.0)
    assert found.results["zero_shot"] == {"acc1": 1.0, "acc5": 1.0, "mean_per_class_recall": 1.0}
    assert found.spelled["class_3"] == "class 3"
    assert found.zero_shot is not None
    assert torch.equal(found.zero_shot.confusion, torch.eye(12, dtype=torch.int64))
    assert found.positives == "id"
    assert found.notes == []
    json.dumps(found.results, allow_nan=False)


def test_pictures_and_captions_are_embedded_once_for_all_tasks() -> None:
    encoder = FakeEncoder()
    run_tasks(encoder, labelled_source(), ["retrieval", "zero_shot"], templates=["class {c}"])
    assert sum(encoder.image_batches) == 12
    assert [len(batch) for batch in encoder.text_batches] == [24, 12]  # captions, then prompts


def test_a_memory_spares_pictures_and_captions_of_the_same_rows() -> None:
    encoder, memory, source = FakeEncoder(), FeatureMemory(), labelled_source()
    first = run_tasks(encoder, source, ["retrieval"], memory=memory)
    again = run_tasks(encoder, labelled_source(), ["retrieval"], positives="label", memory=memory)
    zero_shot = run_tasks(encoder, labelled_source(), ["zero_shot"], templates=["class {c}"], memory=memory)
    assert sum(encoder.image_batches) == 12
    assert [len(batch) for batch in encoder.text_batches] == [24, 12]  # captions, then prompts
    assert again.results == first.results == run_tasks(FakeEncoder(), source, ["retrieval"]).results
    assert zero_shot.results == run_tasks(FakeEncoder(), source, ["zero_shot"], templates=["class {c}"]).results


def test_a_memory_knows_other_rows_other_origins_and_other_batches() -> None:
    encoder, memory = FakeEncoder(), FeatureMemory()
    run_tasks(encoder, labelled_source(), ["zero_shot"], memory=memory)
    run_tasks(encoder, labelled_source(11), ["zero_shot"], memory=memory)
    memory.origin = ("fake.parquet", "test")
    run_tasks(encoder, labelled_source(11), ["zero_shot"], memory=memory)
    run_tasks(encoder, labelled_source(11), ["zero_shot"], memory=memory, batch_size=100)
    assert sum(encoder.image_batches) == 12 + 3 * 11
    run_tasks(encoder, labelled_source(11), ["zero_shot"], memory=memory, batch_size=100)
    assert sum(encoder.image_batches) == 12 + 3 * 11


def test_zero_shot_alone_needs_no_captions() -> None:
    encoder, source = FakeEncoder(), labelled_source()
    source.texts = []
    found = run_tasks(encoder, source, ["zero_shot"])
    assert set(found.results) == {"zero_shot"}
    with pytest.raises(DataError, match=r"fake.parquet: retrieval needs captions"):
        run_tasks(encoder, source, ["retrieval"])


def test_undecodable_pictures_and_their_captions_take_no_part() -> None:
    source = labelled_source()
    source.codes[3] = None
    found = run_tasks(FakeEncoder(), source, ["retrieval", "zero_shot"])
    assert found.data.positions.tolist() == [0, 1, 2, *range(4, 12)]
    assert "number 3" not in found.data.captions
    assert found.data.text_images.tolist() == [i for i in range(11) for _ in range(2)]
    assert found.results["retrieval"]["mean_recall"] == 1.0
    assert found.results["zero_shot"]["acc1"] == 1.0
    assert found.notes[0].startswith("1 pictures could not be decoded and take no part; row 103: ")
    assert found.notes[1] == "1 classes have no pictures and count in no mean: class 3"


def test_rows_without_label_take_no_part_in_zero_shot() -> None:
    source = labelled_source()
    source.labels[5] = None
    found = run_tasks(FakeEncoder(), source, ["zero_shot"])
    assert "1 of 12 pictures have no label and take no part in zero_shot" in found.notes
    assert found.zero_shot is not None
    assert len(found.zero_shot.predictions) == 11


def test_small_galleries_are_noted_or_errors() -> None:
    source = labelled_source(4)
    found = run_tasks(FakeEncoder(), source, ["retrieval"])
    assert found.results["retrieval"]["text_to_image_recall@5"] is None
    assert found.results["retrieval"]["image_to_text_recall@5"] == 1.0
    assert found.notes == [
        "recall at 5, 10 is not defined among 4 pictures",
        "recall at 10 is not defined among 8 captions",
    ]
    with pytest.raises(DataError, match=r"recall@5: .* 4 pictures"):
        run_tasks(FakeEncoder(), source, ["retrieval"], strict=True)
    assert run_tasks(FakeEncoder(), source, ["retrieval"], ks=[1, 4], strict=True).notes == []


def shared_source() -> FakeSource:
    """Two pictures of code 1 that differ in all but one caption, and one of code 2."""
    return FakeSource(
        codes=[1, 1, 2],
        texts=[["A dog 1 ."], ["a dog 1"], ["2"]],
        groups=["x", "x", None],
        labels=[0, 0, 1],
        label_names=["1", "2"],
    )


@pytest.mark.parametrize(("rule", "expected"), [("id", 1 / 3), ("caption", 1.0), ("group", 1.0), ("label", 1.0)])
def test_positives_decide_what_a_twin_is_worth(rule: str, expected: float) -> None:
    found = run_tasks(FakeEncoder(), shared_source(), ["retrieval"], positives=rule, ks=[1])
    assert found.positives == rule
    assert found.results["retrieval"]["text_to_image_recall@1"] == pytest.approx(expected)
    assert found.results["retrieval"]["map@r"] == pytest.approx(expected)


def test_wrong_requests_are_errors_before_anything_is_embedded() -> None:
    encoder = FakeEncoder()
    for arguments, message in (
        ({"tasks": ["probe"]}, "task 'probe' is unknown; choose of retrieval, zero_shot"),
        ({"tasks": []}, "no task to evaluate"),
        ({"tasks": ["retrieval"], "positives": "ids"}, "positives: 'ids' is unknown"),
        ({"tasks": ["zero_shot"], "templates": ["a photo"]}, "template 'a photo' has no place"),
    ):
        with pytest.raises(DataError, match=message):
            run_tasks(encoder, labelled_source(), **arguments)
    assert encoder.image_batches == []


def test_missing_columns_are_errors() -> None:
    source = FakeSource(codes=[1, 2], texts=[["1"], ["2"]])
    with pytest.raises(DataError, match=r"fake.parquet: zero_shot needs a label column"):
        run_tasks(FakeEncoder(), source, ["zero_shot"])
    with pytest.raises(DataError, match="positives by group need a group column"):
        run_tasks(FakeEncoder(), source, ["retrieval"], positives="group")
    source.labels = [0, 1]
    with pytest.raises(DataError, match="labels are numbers without names"):
        run_tasks(FakeEncoder(), source, ["zero_shot"])
    found = run_tasks(FakeEncoder(), source, ["zero_shot"], classnames=["1", "2"])
    assert found.results["zero_shot"]["acc1"] == 1.0


def test_glued_class_names_are_spelled_by_the_vocabulary() -> None:
    source = FakeSource(codes=[1, 2], labels=[0, 1], label_names=["tenniscourt", "golf_course"])
    found = run_tasks(FakeEncoder(), source, ["zero_shot"], words={"tennis", "court"}, templates=["{c}"])
    assert found.spelled == {"tenniscourt": "tennis court", "golf_course": "golf course"}
    assert found.templates == ["{c}"]
    assert found.zero_shot is not None
    assert found.zero_shot.class_names == ["tennis court", "golf course"]


def test_picture_without_caption_is_an_error() -> None:
    source = FakeSource(codes=[1, 2], texts=[["1"], []])
    with pytest.raises(DataError, match="image 1 has no positive"):
        run_tasks(FakeEncoder(), source, ["retrieval"], ks=[1])


def test_embedded_data_lines_up() -> None:
    encoder, source = FakeEncoder(), labelled_source(3)
    data = embed_data(encoder, source, batch_size=2)
    assert data.captions == [caption for row in source.texts for caption in row]
    torch.testing.assert_close(data.text_features, encoder.vectors[data.text_images].detach())
    torch.testing.assert_close(data.image_features, encoder.vectors[:3].detach())
    assert data.labels == [0, 1, 2]
