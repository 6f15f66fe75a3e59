from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.errors import DataError, ModelError
from mmcontrast.evaluation import zero_shot
from mmcontrast.evaluation.zero_shot import class_weights, classify, fill_templates, load_classnames, load_templates

NAMES = ["dog", "cat", "bird", "fish", "cow", "fly"]


def random_case(n: int = 120, c: int = 6, d: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(c, (n,), generator=rng)
    weights = normalize(torch.randn(c, d, generator=rng), dim=-1)
    return weights[labels] + 0.5 * torch.randn(n, d, generator=rng), labels, weights


def test_metrics_equal_a_literal_loop_and_sklearn() -> None:
    features, labels, weights = random_case()
    result = classify(features, labels, weights, NAMES)
    logits = 100 * normalize(features.double(), dim=-1) @ weights.double().T
    top5 = logits.topk(5).indices
    assert result.metrics["acc1"] == pytest.approx((top5[:, 0] == labels).double().mean().item(), abs=1e-12)
    assert result.metrics["acc5"] == pytest.approx((top5 == labels[:, None]).any(1).double().mean().item(), abs=1e-12)
    expected = balanced_accuracy_score(labels.numpy(), top5[:, 0].numpy())
    assert result.metrics["mean_per_class_recall"] == pytest.approx(expected, abs=1e-12)
    assert 0.3 < expected < 0.95
    assert torch.equal(result.predictions, top5[:, 0])
    assert result.confusion.sum() == len(labels)
    assert result.confusion[2, 3] == ((labels == 2) & (result.predictions == 3)).sum()
    assert result.class_names == NAMES
    assert result.notes == []
    torch.testing.assert_close(zero_shot.zero_shot_logits(features, weights), logits, rtol=0, atol=1e-5)


def test_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classify(*random_case(), NAMES)
    monkeypatch.setattr(zero_shot, "_CHUNK", 7)
    parts = classify(*random_case(), NAMES)
    assert parts.metrics == whole.metrics
    assert torch.equal(parts.predictions, whole.predictions)


def test_constant_features_earn_nothing() -> None:
    result = classify(torch.ones(6, 3), torch.arange(6), torch.ones(6, 3), NAMES)
    assert result.metrics == {"acc1": 0.0, "acc5": 0.0, "mean_per_class_recall": 0.0}


def test_few_classes_have_no_acc5_and_the_result_is_json() -> None:
    result = classify(torch.eye(4), torch.arange(4), torch.eye(4), NAMES[:4])
    assert json.loads(json.dumps(result.metrics, allow_nan=False)) == {
        "acc1": 1.0,
        "acc5": None,
        "mean_per_class_recall": 1.0,
    }


def test_class_without_pictures_is_noted_and_counts_in_no_mean() -> None:
    result = classify(torch.eye(6)[:2], torch.tensor([0, 2]), torch.eye(6), NAMES)
    assert result.metrics["mean_per_class_recall"] == 0.5
    assert result.notes == ["4 classes have no pictures and count in no mean: cat, fish, cow, fly"]


def test_equal_class_names_are_noted() -> None:
    result = classify(torch.eye(3), torch.arange(3), torch.eye(3), ["dog", "cat", "dog"])
    assert result.notes == ["several classes have the same name, so that nothing can tell them apart: dog"]


@pytest.mark.parametrize("label", [-1, 6])
def test_label_out_of_range_is_an_error(label: int) -> None:
    features, labels, weights = random_case()
    labels[4] = label
    with pytest.raises(DataError, match=f"label {label} of picture 4 is out of range: there are 6 class names"):
        classify(features, labels, weights, NAMES)


def test_other_wrong_arguments_are_errors() -> None:
    features, labels, weights = random_case()
    with pytest.raises(DataError, match="119 labels for 120 pictures"):
        classify(features, labels[1:], weights, NAMES)
    with pytest.raises(ModelError, match="class features are not finite"):
        classify(features, labels, weights * torch.nan, NAMES)
    with pytest.raises(DataError, match="no image features"):
        classify(features[:0], labels[:0], weights, NAMES)


def test_class_vector_is_the_normalised_mean_of_normalised_prompts() -> None:
    prompts: list[str] = []
    rng = torch.Generator().manual_seed(0)

    def encode(texts: list[str]) -> Tensor:
        prompts.extend(texts)
        return torch.randn(len(texts), 4, generator=rng) * torch.arange(1, len(texts) + 1)[:, None]

    weights = class_weights(encode, ["dog", "cat"], ["a {c}", "the {c}.", "{}"])
    assert prompts == ["a dog", "the dog.", "dog", "a cat", "the cat.", "cat"]
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for row, of_class in zip(weights, features.view(2, 3, 4), strict=True):
        mean = sum(feature / feature.norm() for feature in of_class) / 3
        torch.testing.assert_close(row, mean / mean.norm())


def test_templates_take_names_with_braces() -> None:
    assert fill_templates("a{b}", ["see {c}: {c}"]) == ["see a{b}: a{b}"]
    assert fill_templates("{}", ["see {c}"]) == ["see {}"]


def test_template_without_a_place_is_an_error() -> None:
    with pytest.raises(DataError, match=r"template 'a photo' has no place for the class name: write \"\{c\}\""):
        fill_templates("dog", ["{c}", "a photo"])
    with pytest.raises(DataError, match="no prompt templates"):
        fill_templates("dog", [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "\ufeffa {c}\n\n  the {}.  \n"),
        ("t.json", '["a {c}", "the {}."]'),
        ("t.yaml", '- "a {c}"\n- the {}.\n'),
        ("t.yml", '["a {c}", "the {}."]'),
    ],
)
def test_templates_are_loaded(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert load_templates(tmp_path / name) == ["a {c}", "the {}."]


def test_classnames_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("dog\nT-shirt/top\n海滩\n", encoding="utf-8")
    assert load_classnames(tmp_path / "c.txt") == ["dog", "T-shirt/top", "海滩"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "absent.txt: cannot read templates: No such file"),
        ("t.txt", "\n", "t.txt: no templates in it"),
        ("t.txt", "a photo\n", "template 'a photo' has no place"),
        ("t.json", "[1, 2]", "t.json: templates must be a list of strings"),
        ("t.json", "{", "t.json: cannot read templates"),
        ("t.yaml", "a: [", "t.yaml: cannot read templates"),
        ("t.yaml", "- no\n", "t.yaml: templates must be a list of strings"),  # YAML's boolean
    ],
)
def test_wrong_files_are_errors(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_templates(tmp_path / name)


def test_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"t.txt: cannot read class names: .*utf-8"):
        load_classnames(tmp_path / "t.txt")
