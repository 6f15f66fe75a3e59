"""Evaluating and tokenizers outside a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import mmcontrast
from mmcontrast.build import SharedWork, holds_quickstart, quickstart_config, train_tokenizer
from mmcontrast.config import load_config
from mmcontrast.data import PairSource, open_source
from mmcontrast.data.scenes import SHAPES
from mmcontrast.errors import DataError, MMContrastError, ModelError
from mmcontrast.evaluation import embedded as embedding
from mmcontrast.models import load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
SCENES = "synthetic://scenes"


@pytest.fixture(scope="module")
def scenes() -> PairSource:
    return open_source(SCENES, split="validation", rows=40)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, scenes: PairSource) -> Path:
    """The same scenes as a CSV beside its pictures, with unusual names of columns and classes."""
    folder = tmp_path_factory.mktemp("a folder")
    lines = ["which picture;says;kind;family"]
    for i in range(len(scenes)):
        data = scenes.image(i)
        assert isinstance(data, bytes)
        (folder / f"{i}.jpg").write_bytes(data)
        label = scenes.label(i)
        assert label is not None
        lines.append(f"{i}.jpg;{scenes.captions(i)[0]};{SHAPES[label]}_shape;{i // 2}")
    (folder / "scenes.csv").write_text("\n".join(lines) + "\n")
    return folder / "scenes.csv"


COLUMNS = {"image_column": "which picture", "caption_columns": ["says"]}


def test_path_model_and_source_give_the_same(tiny_run: Path, scenes: PairSource) -> None:
    model = mmcontrast.DualEncoder.from_pretrained(tiny_run / "model")
    by_path = mmcontrast.evaluate(str(tiny_run / "model"), scenes, "retrieval", batch_size=7)
    by_model = mmcontrast.evaluate(model, scenes)
    assert by_path.keys() == by_model.keys() == {"retrieval"}
    assert by_path["retrieval"] == pytest.approx(by_model["retrieval"])


def test_shared_work_loads_and_embeds_once(tiny_run: Path, scenes: PairSource, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, embedded = [], []
    load, embed = mmcontrast.DualEncoder.from_pretrained, embedding.embed_images
    monkeypatch.setattr(
        mmcontrast.DualEncoder, "from_pretrained", lambda *given, **named: loaded.append(1) or load(*given, **named)
    )
    monkeypatch.setattr(embedding, "embed_images", lambda *given, **named: embedded.append(1) or embed(*given, **named))
    model = str(tiny_run / "model")
    alone = [mmcontrast.evaluate(model, SCENES, task, split="validation") for task in ("retrieval", "zero_shot")]
    assert (len(loaded), len(embedded)) == (2, 2)
    shared = SharedWork()
    both = [
        mmcontrast.evaluate(model, SCENES, task, split="validation", shared=shared)
        for task in ("retrieval", "zero_shot")
    ]
    assert (len(loaded), len(embedded)) == (3, 3)
    assert both == alone
    mmcontrast.evaluate(model, SCENES, split="train", shared=shared)
    assert (len(loaded), len(embedded)) == (3, 4)


def test_probes_share_the_features_of_their_train_data(
    tiny_run: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded, embed, said = [], embedding.embed_images, []
    monkeypatch.setattr(embedding, "embed_images", lambda *given, **named: embedded.append(1) or embed(*given, **named))
    shared = SharedWork()
    found = [
        mmcontrast.evaluate(
            tiny_run / "model",
            table,
            task,
            train_data=table,
            label_column="kind",
            image_column="which picture",
            shared=shared,
            say=said.append,
        )
        for task in ("linear_probe", ["knn", "few_shot"])
    ]
    assert len(embedded) == 2
    assert 0 < found[0]["linear_probe"]["acc1"] <= found[0]["linear_probe"]["acc5"] <= 1  # type: ignore[operator]
    assert found[1]["knn"]["acc1@1"] == 1.0  # its own picture is the nearest
    assert found[1].keys() == {"knn", "few_shot"}
    assert "knn: too few" not in "".join(said)


def test_an_evaluation_imports_only_the_libraries_of_its_model(tiny_run: Path) -> None:
    script = (
        "import sys, mmcontrast.build.jobs, mmcontrast.models.build, mmcontrast.models.towers_timm\n"
        "print([name for name in ('open_clip', 'transformers', 'accelerate', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_columns_by_name(tiny_run: Path, table: Path) -> None:
    said: list[str] = []
    results = mmcontrast.evaluate(
        tiny_run / "model", table, ["zero_shot", "retrieval"], label_column="kind", say=said.append, **COLUMNS
    )
    assert results.keys() == {"zero_shot", "retrieval"}
    assert 0 <= results["zero_shot"]["acc1"] <= results["zero_shot"]["acc5"] <= 1  # type: ignore[operator]
    assert any("circle_shape -> circle shape" in line for line in said)
    assert "retrieval: a picture and a caption belong together by id" in said


def test_positives_rules(tiny_run: Path, table: Path) -> None:
    maps = {}
    for rule in ("id", "caption", "group", "label"):
        retrieval = mmcontrast.evaluate(
            tiny_run / "model", table, label_column="kind", group_column="family", positives=rule, **COLUMNS
        )["retrieval"]
        assert retrieval["mean_recall"] is not None
        maps[rule] = retrieval["mean_recall"]
    assert maps["id"] <= maps["group"] < maps["label"]  # ever more captions count as hits
    assert maps["id"] <= maps["caption"]


def test_templates_and_class_names_by_list_and_by_file(tiny_run: Path, table: Path, tmp_path: Path) -> None:
    def zero_shot(**options: object) -> dict[str, float | None]:
        return mmcontrast.evaluate(
            tiny_run / "model",
            table,
            "zero_shot",
            label_column="kind",
            **COLUMNS,
            **options,  # type: ignore[arg-type]
        )["zero_shot"]

    templates = ["a {c}", "there is a {} in the picture"]
    (tmp_path / "templates.txt").write_text("\n".join(templates))
    assert zero_shot(templates=templates) == zero_shot(templates=tmp_path / "templates.txt")
    names = open_source(table, label_column="kind", **COLUMNS).label_names  # type: ignore[arg-type]
    assert names is not None
    (tmp_path / "names.txt").write_text("\n".join(name.removesuffix("_shape") for name in names))
    spelled = zero_shot(classnames={name: name.removesuffix("_shape") for name in names})
    assert spelled == zero_shot(classnames=str(tmp_path / "names.txt"))


def test_the_models_own_templates_are_used(tiny_run: Path, scenes: PairSource) -> None:
    model = mmcontrast.DualEncoder.from_pretrained(tiny_run / "model")
    own = mmcontrast.evaluate(model, scenes, "zero_shot")
    model.templates = ["nothing of a {c} at all, but a photo from the far side of the moon"]
    other = mmcontrast.evaluate(model, scenes, "zero_shot")
    assert own == mmcontrast.evaluate(tiny_run / "model", scenes, "zero_shot")
    assert own != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "retrievl"}, "retrievl"),
        ({"task": []}, "no task"),
        ({"positives": "ids"}, "ids"),
        ({"ks": [0]}, "recall at 0 is not defined"),
        ({"label_column": "absent"}, "no column 'absent'; columns found: 'which picture', 'says', 'kind', 'family'"),
        ({"task": "zero_shot", "templates": "absent.txt"}, "absent.txt: cannot read templates"),
        ({"task": "zero_shot", "templates": ["a thing"]}, "no place for the class name"),
        ({"task": "zero_shot", "classnames": ["only", "two"]}, "class"),
        ({"task": "zero_shot", "label_column": ""}, "label"),
        ({"positives": "group", "group_column": ""}, "group"),
    ],
)
def test_evaluation_errors(tiny_run: Path, table: Path, options: dict[str, object], message: str) -> None:
    options = {**COLUMNS, "label_column": "kind", **options}
    with pytest.raises(MMContrastError, match=message) as caught:
        mmcontrast.evaluate(tiny_run / "model", table, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_models_that_are_none(tmp_path: Path, tiny_run: Path, scenes: PairSource) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        mmcontrast.evaluate(tmp_path / "absent", scenes)
    with pytest.raises(ModelError, match=r"config\.json"):
        mmcontrast.evaluate(tmp_path, scenes)
    with pytest.raises(ModelError, match=r"is a run, not a model: take .*run/model"):
        mmcontrast.evaluate(tiny_run, scenes)


def test_pictures_alone_can_be_classified(tiny_run: Path, tmp_path: Path, scenes: PairSource) -> None:
    for i in range(4):
        data, folder = scenes.image(i), tmp_path / ("ring" if i % 2 else "star")
        assert isinstance(data, bytes)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(data)
    results = mmcontrast.evaluate(tiny_run / "model", tmp_path, "zero_shot")
    assert results["zero_shot"].keys() >= {"acc1", "mean_per_class_recall"}


def test_the_python_face(tiny_run: Path) -> None:
    model = mmcontrast.DualEncoder.from_pretrained(tiny_run / "model")
    pictures = [Image.new("RGB", (50, 20), colour) for colour in ("red", "blue")]
    image_features, text_features = model.encode_image(pictures), model.encode_text(["a red circle", "a blue square"])
    assert image_features.shape == text_features.shape == (2, 16)
    for features in (image_features, text_features):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    loss = mmcontrast.symmetric_info_nce(image_features, text_features, model.logit_scale.exp())
    assert loss.isfinite()


def test_train_tokenizer(table: Path, tmp_path: Path, scenes: PairSource) -> None:
    summary = train_tokenizer(table, tmp_path / "tok", 300, context_length=12, **COLUMNS)  # type: ignore[arg-type]
    assert summary["captions"] == 40
    assert summary["vocab_size"] <= 300
    assert summary["truncated"] > 0
    assert summary["mean_tokens"] < summary["longest_tokens"]
    tokenizer = load_tokenizer(tmp_path / "tok")
    assert tokenizer([scenes.captions(0)[0]]).input_ids.shape[1] <= 12
    with pytest.raises(ModelError, match="is not empty"):
        train_tokenizer(table, tmp_path / "tok", 300)
    with pytest.raises(DataError, match="absent"):
        train_tokenizer(tmp_path / "absent.csv", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_quickstart_config_and_its_folder(tiny_run: Path, tmp_path: Path) -> None:
    config = load_config(quickstart_config())
    assert config.data.train.path == SCENES
    assert holds_quickstart(tiny_run)
    assert not holds_quickstart(tmp_path)
    (tmp_path / "config.yaml").write_text("data: {train: {path: my.csv}}\n")
    assert not holds_quickstart(tmp_path)
