"""Which columns a task reads when none is named: from a file to its scores."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_fakes import picture
from model_fakes import CONTEXT, CORPUS, tiny_model

from mmcontrast.build import evaluate, jobs, run_evaluation
from mmcontrast.errors import DataError
from mmcontrast.models import DualEncoder, SentencePieceTokenizer, train_sentencepiece


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    tokenizer = SentencePieceTokenizer(train_sentencepiece(CORPUS, 330), CONTEXT)
    return tiny_model(tokenizer, "timm_resnet", "bag_of_words").eval()


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WORKERS", 0)


def write(path: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table({"image": [picture(8 * i) for i in range(6)], **columns}), path)
    return path


LABELS: list[object] = ["dog", "cat", "dog", "car", "cat", "car"]
CAPTIONS: list[object] = [["a red dog", "a dog"], ["a cat"], ["the dog"], ["a car"], [], ["cars"]]


def test_robustness_takes_what_there_is(model: DualEncoder, tmp_path: Path) -> None:
    labels = run_evaluation(model, write(tmp_path / "labels.parquet", label=LABELS), "robustness")
    assert {"acc1", "noise@3/acc1_drop"} < labels.results["robustness"].keys()
    assert "mean_recall" not in labels.results["robustness"]
    both = evaluate(model, write(tmp_path / "both.parquet", label=LABELS, captions=CAPTIONS), "robustness")
    assert {"acc1", "mean_recall"} < both["robustness"].keys()
    with pytest.raises(DataError, match=r"no column looks like captions"):
        evaluate(model, write(tmp_path / "neither.parquet"), "robustness")


def test_multilingual_needs_its_columns_named(model: DualEncoder, tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", captions=CAPTIONS, captions_de=["ein Hund", "", "Hunde", "Auto", "Katze", "x"])
    with pytest.raises(DataError, match=r"multilingual compares columns of captions: name two or more of them"):
        evaluate(model, file, "multilingual")
    found = run_evaluation(model, file, "multilingual", caption_columns=["captions", "captions_de"], ks=[1])
    assert found.data.positions.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.notes[0] == "multilingual: 2 of 6 pictures lack a caption in some column and are out"
    assert {"captions_de/mean_recall", "captions->captions_de/recall@1"} < found.results["multilingual"].keys()
