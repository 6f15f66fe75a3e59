"""Rules between fields, and between the config and the data."""

from __future__ import annotations

from typing import Any

import pytest

from mmcontrast.config import Config, check_against_data, load_config, total_steps, warmup_steps
from mmcontrast.errors import ConfigError


def config(*overrides: str) -> Config:
    sources: dict[str, Any] = {"data": {"train": {"path": "x"}, "validation": {"path": "y"}}}
    return load_config(sources, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.global_batch_size=1"], "training.global_batch_size: 1 must be greater than or equal to 2"),
        (["model.text.context_length=3"], "model.text.context_length: 3 must be greater than or equal to 4"),
        (
            ["training.max_steps=10", "training.warmup_steps=10"],
            "training.warmup_steps: 10 steps of warm-up do not fit into training.max_steps 10; take less than that",
        ),
        (
            ["model.image.name=vit_tiny_patch16_224", "model.image.image_size=70"],
            "model.image.image_size: 70 is no multiple of the tower's patches of 16 pixels; 64 is the nearest",
        ),
        (
            ["model.image.library=open_clip", "model.image.name=ViT-B-32", "model.image.image_size=8"],
            "model.image.image_size: 8 is no multiple of the tower's patches of 32 pixels; 32 is the nearest",
        ),
        (
            ["model.image.kwargs.patch_size=7"],
            "model.image.image_size: 64 is no multiple of the tower's patches of 7 pixels; 63 is the nearest",
        ),
        (["model.text.pretrained=true", "model.tokenizer.kind=clip"], "model.text.pretrained: needs model.text.name"),
        (
            ["model.init_from=m", "model.image.locked=true", "model.image.patch_dropout=0.5"],
            "model.image.patch_dropout: does nothing to a tower that model.image.locked keeps as it is; leave it out",
        ),
        (["model.image.locked=true"], "model.image.locked: would keep random weights; set model.image.pretrained"),
        (
            [
                "model.tokenizer.kind=clip",
                *(
                    f"model.{tower}.{rest}"
                    for tower in ("image", "text")
                    for rest in ("name=ViT-B-32", "pretrained=openai", "locked=true", "projection=none")
                ),
            ],
            "model.text.locked: leaves nothing to train",
        ),
        (
            ["model.init_from=m", "model.image.name=resnet50"],
            "model.image.name: comes with the model of model.init_from; leave it out",
        ),
        (["model.init_from=m", "model.embed_dim=64"], "model.embed_dim: comes with the model of model.init_from"),
        (["model.logit_scale=200"], "model.logit_scale: is 200, over model.logit_scale_max (100)"),
        (["model.tokenizer.kind=transformers"], "model.tokenizer.name: is needed with kind transformers"),
        (
            ["model.text.name=ViT-B-32", "model.text.pretrained=openai"],
            "model.tokenizer.kind: a SentencePiece vocabulary trained here does not fit a pretrained text tower; "
            "take clip",
        ),
        (
            ["negatives.rule=none", "negatives.known_positives=positives"],
            "negatives.known_positives: positives needs negatives.rule duplicates",
        ),
        (
            ["negatives.rule=text_similarity", "negatives.known_positives=positives"],
            "negatives.known_positives: positives needs negatives.rule duplicates: with rule text_similarity no "
            "further positive is known",
        ),
        (
            ["negatives.rule=[none, duplicates]"],
            "negatives.rule: none cannot stand beside other rules; leave it or them out",
        ),
        (["negatives.rule=[margin, duplicates, margin]"], "negatives.rule: names margin twice; once is enough"),
        (
            ["negatives.soft_positives=0.5"],
            "negatives.soft_positives: needs the probabilities of negatives.rule calibrated",
        ),
        (
            ["negatives.rule=calibrated", "negatives.soft_positives=0.5", "training.loss=sigmoid"],
            "negatives.soft_positives: needs training.loss info_nce",
        ),
        (
            ["negatives.start=0.7", "negatives.ramp=0.3"],
            "negatives.ramp: start 0.7 + ramp 0.3 leave no training at full effect; take less than 1 together",
        ),
        (
            ["negatives.rule=[duplicates, hardness]", "training.loss=sigmoid"],
            "negatives.rule: hardness needs training.loss info_nce",
        ),
        (
            ["negatives.cluster.correction=0.5"],
            "negatives.cluster.correction: corrects guided batches; set negatives.cluster.share as well",
        ),
        (
            ["negatives.cluster.share=0.5", "negatives.cluster.group=9", "training.global_batch_size=8"],
            "negatives.cluster.group: is larger than training.global_batch_size; take 8 or less",
        ),
        (
            ["training.micro_batch_size=9", "training.global_batch_size=8"],
            "training.micro_batch_size: 9 is larger than training.global_batch_size (8); take 8 or less, or null",
        ),
        (["training.micro_batch_size=0"], "training.micro_batch_size: 0 must be greater than 0"),
        (["evaluation.inspect_negatives=-1"], "evaluation.inspect_negatives: -1 must be greater than or equal to 0"),
        (
            ["data.streaming=true", "training.max_steps=5", "evaluation.every_steps=5", "data.caption_sampling=all"],
            "data.caption_sampling: all needs data.streaming false",
        ),
        (
            ["data.streaming=true", "training.max_steps=5", "evaluation.every_steps=5", "data.image_cache=cache"],
            "data.image_cache: needs rows by number, which data.streaming has not; leave one of the two out",
        ),
        (
            ["data.streaming=true", "training.max_steps=5", "evaluation.every_steps=5", "data.pretokenize=true"],
            "data.pretokenize: true needs data.streaming false",
        ),
        (["data.image_cache_size=100"], "data.image_cache_size: does nothing without data.image_cache"),
        (["data.streaming=true", "evaluation.every_steps=5"], "training.max_steps: is needed with data.streaming"),
        (
            ["data.streaming=true", "training.max_steps=5"],
            "evaluation.every_epochs: has no meaning with data.streaming",
        ),
        (
            ["data.validation=null", "evaluation.every_epochs=2"],
            "evaluation.every_epochs: evaluates without pairs to do it on; add data.validation.path",
        ),
        (
            ["evaluation.every_epochs=null", "training.early_stopping_patience=2"],
            "training.early_stopping_patience: needs evaluations",
        ),
        (["evaluation.templates=[a photo]"], "evaluation.templates: 'a photo' has no {} where the class name goes"),
        (["evaluation.best_metric=retrieval.recall"], "evaluation.best_metric: 'retrieval.recall' is no TASK.METRIC"),
        (
            ["evaluation.best_metric=retrieval.image_to_text_mean_rank"],
            "evaluation.best_metric: 'retrieval.image_to_text_mean_rank' is no TASK.METRIC whose highest value",
        ),
        (
            ["evaluation.tasks=[retrieval]", "evaluation.best_metric=zero_shot.acc1"],
            "evaluation.best_metric: 'zero_shot.acc1' is not measured: evaluation.tasks lacks zero_shot",
        ),
        (["model.image.image_size=64.0"], "model.image.image_size: 64.0 must be a whole number"),
    ],
)
def test_contradictions(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*overrides)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("--set ") or line.startswith("config: ")
    assert message in line


def test_several_contradictions_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        config("training.max_steps=1", "training.warmup_steps=2", "model.logit_scale=300")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.image.name=vit_tiny_patch16_224", "model.image.image_size=80"],
        ["model.image.library=open_clip", "model.image.name=ViT-L-14-336", "model.image.image_size=336"],
        ["evaluation.best_metric=retrieval.text_to_image_recall@10"],
        ["evaluation.best_metric=retrieval.map@r"],
        ["evaluation.best_metric=retrieval.image_to_text_map@r"],
        ["evaluation.best_metric=retrieval.r_precision"],
        ["evaluation.best_metric=zero_shot.mean_per_class_recall"],
        ["evaluation.templates=['{c}.']"],
        ["evaluation.templates=prompts.txt"],
        ["data.streaming=true", "training.max_steps=5", "evaluation.every_steps=5"],
        ["training.max_steps=10", "training.warmup_steps=9"],
        ["negatives.known_positives=positives"],
        ["model.init_from=m", "model.image.locked=true"],
        ["model.init_from=m", "model.image.patch_dropout=0.5"],
        ["negatives.rule=oracle", "negatives.known_positives=positives"],
        ["negatives.rule=[oracle, calibrated]", "negatives.known_positives=positives", "negatives.soft_positives=0.9"],
        ["negatives.rule=[duplicates, calibrated, margin]", "training.loss=sigmoid"],
        ["negatives.start=0", "negatives.ramp=0"],
        ["negatives.cluster.share=0.25", "negatives.cluster.correction=1"],
        ["negatives.cluster.group=9", "training.global_batch_size=8"],
        ["training.micro_batch_size=8", "training.global_batch_size=8"],
        ["training.micro_batch_size=3", "training.global_batch_size=8"],
        ["evaluation.inspect_negatives=0"],
    ],
)
def test_what_is_allowed(overrides: list[str]) -> None:
    config(*overrides)


def test_sigmoid_brings_its_scale_and_bias_unless_given() -> None:
    assert (config().model.logit_scale, config().model.logit_bias) == (14.285714, None)
    model = config("training.loss=sigmoid").model
    assert (model.logit_scale, model.logit_bias) == (10.0, -10.0)
    model = config("training.loss=sigmoid", "model.logit_scale=5", "model.logit_bias=-3").model
    assert (model.logit_scale, model.logit_bias) == (5.0, -3.0)


def test_rules_are_one_or_a_list() -> None:
    assert config().negatives.rules == ("duplicates",)
    assert config("negatives.rule=none").negatives.rules == ()
    assert config("negatives.rule=[none]").negatives.rules == ()
    rules = config("negatives.rule=[calibrated, duplicates]").negatives.rules
    assert rules == ("calibrated", "duplicates")
    with pytest.raises(ConfigError, match=r"negatives\.rule"):
        config("negatives.rule=[]")
    with pytest.raises(ConfigError, match=r"negatives\.rule"):
        config("negatives.rule=[calibratd]")


def test_by_default_nothing_but_duplicates_is_treated_apart() -> None:
    negatives = config().negatives
    assert (negatives.known_positives, negatives.soft_positives, negatives.prior) == ("mask", None, None)
    assert (negatives.cluster.share, negatives.cluster.correction) == (0.0, 0.0)
    assert config().evaluation.inspect_negatives == 1000


def test_small_towers_where_none_is_named() -> None:
    model = config("model.text.context_length=16").model
    assert (model.image.name, model.text.kwargs) == ("resnet18", {"width": 256, "heads": 4, "layers": 4})
    model = config("model.image.library=open_clip", "model.text.kwargs={layers: 1}").model
    assert (model.image.name, model.text.kwargs) == (None, {"layers": 1})
    assert config("model.init_from=m").model.image.name is None


def test_no_evaluation_without_validation() -> None:
    assert config().evaluation.every_epochs == 1
    assert config("data.validation=null").evaluation.every_epochs is None


def test_steps_follow_from_the_data() -> None:
    assert total_steps(config("training.epochs=3", "training.global_batch_size=10"), 25) == 6
    assert total_steps(config("training.max_steps=40"), 25) == 40
    assert warmup_steps(config("training.warmup_share=0.1"), 25) == 2
    assert warmup_steps(config("training.warmup_steps=7"), 25) == 7


@pytest.mark.parametrize(
    ("overrides", "sizes", "message"),
    [
        (
            ["training.global_batch_size=64"],
            {"num_items": 40},
            "training.global_batch_size: 64 is larger than the data set of 40 training pairs, which has no full "
            "batch; take 40 or less",
        ),
        ([], {"num_items": 1}, "data.train.path: has 1 usable pairs; training needs 2 at least"),
        (
            ["training.global_batch_size=10", "training.epochs=2", "training.warmup_steps=8"],
            {"num_items": 40},
            "training.warmup_steps: 8 steps of warm-up do not fit into the run's 8 steps (40 pairs, "
            "global_batch_size 10); take less than 8, or more training.epochs",
        ),
        (
            [],
            {"num_items": 999, "num_validation": 1},
            "data.validation.path: has 1 usable pairs; an evaluation needs 2 at least",
        ),
        (
            ["training.global_batch_size=10"],
            {"num_items": None, "world_size": 4},
            "training.global_batch_size: 10 cannot be shared evenly by 4 processes; take 8",
        ),
    ],
)
def test_config_against_data(overrides: list[str], sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_against_data(config(*overrides), **sizes)
    assert str(caught.value) == message


def test_config_that_fits_the_data() -> None:
    check_against_data(config("training.global_batch_size=10"), 10, num_validation=2, world_size=5)
    check_against_data(config(), None)
