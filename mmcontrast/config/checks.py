"""Rules between fields of the config, and between the config and the data: plain functions that say the mend."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mmcontrast.errors import ConfigError

if TYPE_CHECKING:
    from mmcontrast.config.schema import Config, DataConfig, ImageTowerConfig

Problem = tuple[str, str]
"""Dotted field, and what is wrong with it."""

# t = 10 and b = -10 as in SigLIP (Zhai et al. 2023): with b = 0 the many negatives swamp the first steps.
SIGMOID_SCALE, SIGMOID_BIAS = 10.0, -10.0
IMAGE_TOWER = "resnet18"
TEXT_TOWER = {"width": 256, "heads": 4, "layers": 4}

ZERO_SHOT_METRICS = ("acc1", "acc5", "mean_per_class_recall")
# Ranks are left out: the best metric is the highest one.
RETRIEVAL_METRIC = re.compile(
    r"mean_recall|(image_to_text_|text_to_image_)?(map@r|r_precision)|(image_to_text|text_to_image)_recall@(1|5|10)",
    re.ASCII,
)


def linked_defaults(values: Any) -> Any:
    """Raw config with the defaults that depend on other fields filled in.

    Towers that are not named are small ones; the sigmoid loss brings its scale and bias; without validation pairs
    no evaluation is planned. What the user wrote stays, so that contradictions are still found.
    """
    if not isinstance(values, dict):
        return values
    model, data, training = (values.get(key) or {} for key in ("model", "data", "training"))
    filled = dict(values)
    if isinstance(model, dict):
        filled["model"] = _default_towers(model) if model.get("init_from") is None else dict(model)
        if isinstance(training, dict) and training.get("loss") == "sigmoid":
            bias = model.get("logit_bias")
            filled["model"].setdefault("logit_scale", SIGMOID_SCALE)
            filled["model"]["logit_bias"] = SIGMOID_BIAS if bias is None else bias
    evaluation = values.get("evaluation", {})
    if isinstance(data, dict) and data.get("validation") is None and isinstance(evaluation, dict):
        filled["evaluation"] = {"every_epochs": None, **evaluation}
    return filled


def _default_towers(model: dict[str, Any]) -> dict[str, Any]:
    """Towers for a section that names none: small enough to train from scratch anywhere."""
    filled = dict(model)
    image, text = model.get("image", {}), model.get("text", {})
    if isinstance(image, dict) and image.get("library", "timm") == "timm" and image.get("name") is None:
        filled["image"] = {**image, "name": IMAGE_TOWER}
    if isinstance(text, dict) and not {"library", "name", "kwargs"} & text.keys():
        filled["text"] = {**text, "kwargs": dict(TEXT_TOWER)}
    return filled


def problems_between_fields(config: Config) -> list[Problem]:
    """Everything that no single field can know."""
    rooms = (
        _start,
        _towers,
        _image_size,
        _tokenizer,
        _loss,
        _negatives,
        _reading,
        _micro_batches,
        _sharding,
        _schedule,
        _evaluation,
        _prompts,
        _best_metric,
    )
    return [problem for room in rooms for problem in room(config)]


def _start(config: Config) -> Iterator[Problem]:
    """A model to start from brings its own architecture; other values beside it would do nothing."""
    model = config.model
    if model.init_from is None:
        return
    default = type(model)()
    for part in ("image", "text", "tokenizer"):
        given, usual = getattr(model, part), getattr(default, part)
        for name in type(given).model_fields:
            if name not in ("locked", "lora", "patch_dropout") and getattr(given, name) != getattr(usual, name):
                yield f"model.{part}.{name}", "comes with the model of model.init_from; leave it out"
    for name in ("embed_dim", "logit_scale", "logit_scale_learnable", "logit_scale_max"):
        if getattr(model, name) != getattr(default, name) and config.training.loss != "sigmoid":
            yield f"model.{name}", "comes with the model of model.init_from; leave it out"


def _towers(config: Config) -> Iterator[Problem]:
    model = config.model
    for field, tower in (("model.image", model.image), ("model.text", model.text)):
        if tower.pretrained and tower.name is None:
            yield f"{field}.pretrained", f"needs {field}.name, the architecture whose weights are meant"
        if tower.locked and not tower.pretrained and model.init_from is None:
            yield (
                f"{field}.locked",
                f"would keep random weights; set {field}.pretrained or model.init_from as well",
            )
        if tower.lora is not None and tower.locked:
            yield f"{field}.lora", f"keeps the tower's own weights as they are by itself; leave {field}.locked out"
        if tower.lora is not None and not tower.pretrained and model.init_from is None:
            yield f"{field}.lora", f"would adapt random weights; set {field}.pretrained or model.init_from as well"
    if model.image.patch_dropout and model.image.locked:
        yield (
            "model.image.patch_dropout",
            "does nothing to a tower that model.image.locked keeps as it is; leave it out",
        )
    both_locked = model.image.locked and model.text.locked
    if both_locked and model.image.projection == model.text.projection == "none":
        yield "model.text.locked", "leaves nothing to train; unlock a tower or give one a projection"
    if model.logit_scale > model.logit_scale_max:
        yield (
            "model.logit_scale",
            f"is {model.logit_scale:g}, over model.logit_scale_max ({model.logit_scale_max:g})",
        )


def patch_size(tower: ImageTowerConfig) -> int | None:
    """Side of a vision transformer's patches, where its arguments or its name tell it."""
    given = tower.kwargs.get("patch_size")
    if isinstance(given, int) and given > 0:
        return given
    found = re.search(r"patch(\d+)|\bViT-[A-Za-z0-9]+-(\d+)", tower.name or "")
    return int(found[1] or found[2]) if found else None


def _image_size(config: Config) -> Iterator[Problem]:
    size, patch = config.model.image.image_size, patch_size(config.model.image)
    if patch and size % patch:
        nearest = max(patch, round(size / patch) * patch)
        yield (
            "model.image.image_size",
            f"{size} is no multiple of the tower's patches of {patch} pixels; {nearest} is the nearest",
        )


def _tokenizer(config: Config) -> Iterator[Problem]:
    tokenizer, text = config.model.tokenizer, config.model.text
    if tokenizer.kind == "transformers" and tokenizer.name is None:
        yield "model.tokenizer.name", "is needed with kind transformers: a folder or a Hub name"
    if text.pretrained and tokenizer.kind == "sentencepiece" and tokenizer.name is None:
        kind = "clip" if text.library == "open_clip" else "transformers"
        yield (
            "model.tokenizer.kind",
            f"a SentencePiece vocabulary trained here does not fit a pretrained text tower; take {kind}",
        )


def _loss(config: Config) -> Iterator[Problem]:
    training = config.training
    if training.loss == "sigmoid" and config.model.logit_bias is None:
        yield "model.logit_bias", "is needed by training.loss sigmoid; SigLIP starts at -10"


def _negatives(config: Config) -> Iterator[Problem]:
    negatives, rules = config.negatives, config.negatives.rules
    if isinstance(negatives.rule, list) and "none" in negatives.rule and len(negatives.rule) > 1:
        yield "negatives.rule", "none cannot stand beside other rules; leave it or them out"
    if twice := [rule for rule in dict.fromkeys(rules) if rules.count(rule) > 1]:
        yield "negatives.rule", f"names {twice[0]} twice; once is enough"
    if negatives.known_positives == "positives" and not {"duplicates", "oracle"} & set(rules):
        yield (
            "negatives.known_positives",
            f"positives needs negatives.rule duplicates: with rule {' + '.join(rules) or 'none'} no further positive "
            "is known",
        )
    if negatives.soft_positives is not None and "calibrated" not in rules:
        yield "negatives.soft_positives", "needs the probabilities of negatives.rule calibrated"
    if negatives.soft_positives is not None and config.training.loss == "sigmoid":
        yield "negatives.soft_positives", "needs training.loss info_nce"
    if negatives.start + negatives.ramp >= 1:
        yield (
            "negatives.ramp",
            f"start {negatives.start:g} + ramp {negatives.ramp:g} leave no training at full effect; take less than 1 "
            "together",
        )
    if config.training.loss == "sigmoid" and "hardness" in rules:
        yield "negatives.rule", "hardness needs training.loss info_nce: its weights are relative to a softmax"
    if negatives.cluster.correction and not negatives.cluster.share:
        yield "negatives.cluster.correction", "corrects guided batches; set negatives.cluster.share as well"
    if negatives.cluster.share and negatives.cluster.group > config.training.global_batch_size:
        batch = config.training.global_batch_size
        yield "negatives.cluster.group", f"is larger than training.global_batch_size; take {batch} or less"


def _reading(config: Config) -> Iterator[Problem]:
    data = config.data
    yield from _mixing(data)
    if data.stream_readers is not None and not data.streaming:
        yield "data.stream_readers", "does nothing without data.streaming; set that, or leave it out"
    elif data.stream_readers is not None and config.training.global_batch_size % data.stream_readers:
        batch = config.training.global_batch_size
        yield (
            "data.stream_readers",
            f"{data.stream_readers} does not divide training.global_batch_size ({batch}), of which each reader gives "
            f"as many pairs; take {math.gcd(batch, data.stream_readers)}",
        )
    if data.streaming and data.caption_sampling == "all":
        yield "data.caption_sampling", "all needs data.streaming false; a stream draws one caption (random)"
    if data.streaming and config.training.max_steps is None:
        yield "training.max_steps", "is needed with data.streaming: a stream has no known length"
    if data.streaming and data.image_cache is not None:
        yield "data.image_cache", "needs rows by number, which data.streaming has not; leave one of the two out"
    if data.streaming and data.pretokenize is True:
        yield "data.pretokenize", "true needs data.streaming false: the captions of a stream are not known beforehand"
    if data.image_cache_size is not None and data.image_cache is None:
        yield "data.image_cache_size", "does nothing without data.image_cache, the folder; set it or leave this out"


def _mixing(data: DataConfig) -> Iterator[Problem]:
    if not isinstance(data.train, list):
        return
    if not data.streaming:
        yield "data.train", "is a list of sources, and they are mixed in a stream only; set data.streaming: true"
    first: dict[tuple[str, str | None], int] = {}
    for number, source in enumerate(data.train):
        before = first.setdefault((source.path, source.split), number)
        if before != number:
            yield (
                f"data.train.{number}.path",
                f"{source.path!r} is that of data.train.{before} as well: every picture would meet itself as a "
                "negative; name it once, with the weight of both",
            )


def _micro_batches(config: Config) -> Iterator[Problem]:
    micro, batch = config.training.micro_batch_size, config.training.global_batch_size
    if micro is not None and micro > batch:
        yield (
            "training.micro_batch_size",
            f"{micro} is larger than training.global_batch_size ({batch}); take {batch} or less, or null",
        )


def _sharding(config: Config) -> Iterator[Problem]:
    training = config.training
    if training.sharding == "none":
        return
    if training.compile:
        yield "training.compile", "does not go with training.sharding: fsdp; turn one of them off"
    if training.precision == "fp16":
        yield "training.precision", "fp16 does not go with training.sharding: fsdp; take bf16 or fp32"


def _schedule(config: Config) -> Iterator[Problem]:
    training = config.training
    if training.warmup_steps and training.max_steps and training.warmup_steps >= training.max_steps:
        yield (
            "training.warmup_steps",
            f"{training.warmup_steps} steps of warm-up do not fit into training.max_steps "
            f"{training.max_steps}; take less than that",
        )


def _evaluation(config: Config) -> Iterator[Problem]:
    evaluation = config.evaluation
    evaluated = evaluation.every_epochs or evaluation.every_steps
    if evaluated and config.data.validation is None:
        field = "evaluation.every_epochs" if evaluation.every_epochs else "evaluation.every_steps"
        yield field, "evaluates without pairs to do it on; add data.validation.path or set it to null"
    if config.training.early_stopping_patience and not evaluated:
        yield (
            "training.early_stopping_patience",
            "needs evaluations: set data.validation.path and evaluation.every_epochs or every_steps",
        )
    if config.data.streaming and evaluation.every_epochs and not evaluation.every_steps:
        yield (
            "evaluation.every_epochs",
            "has no meaning with data.streaming, which has no epochs; set evaluation.every_steps",
        )


def _prompts(config: Config) -> Iterator[Problem]:
    templates = config.evaluation.templates
    for template in templates if isinstance(templates, list) else []:
        if "{}" not in template and "{c}" not in template:
            yield "evaluation.templates", f"{template!r} has no {{}} where the class name goes"


def _best_metric(config: Config) -> Iterator[Problem]:
    evaluation, name = config.evaluation, config.evaluation.best_metric
    task, _, metric = name.partition(".")
    known = {"retrieval": RETRIEVAL_METRIC.fullmatch(metric), "zero_shot": metric in ZERO_SHOT_METRICS}
    if not known.get(task):
        yield (
            "evaluation.best_metric",
            f"{name!r} is no TASK.METRIC whose highest value is the best; write for example "
            "retrieval.mean_recall, retrieval.text_to_image_recall@10, retrieval.map@r or zero_shot.acc1",
        )
    elif task not in evaluation.tasks:
        yield "evaluation.best_metric", f"{name!r} is not measured: evaluation.tasks lacks {task}"


def total_steps(config: Config, num_items: int) -> int:
    """Optimiser steps of the run: training.max_steps if given, else the epochs' full batches."""
    training = config.training
    return training.max_steps or training.epochs * (num_items // training.global_batch_size)


def warmup_steps(config: Config, total: int) -> int:
    """Steps of warm-up out of `total`: training.warmup_steps if given, else the share of them."""
    training = config.training
    return int(training.warmup_share * total) if training.warmup_steps is None else training.warmup_steps


def check_against_data(
    config: Config, num_items: int | None, *, num_validation: int | None = None, world_size: int = 1
) -> None:
    """Compare the config with the data once its size is known, before the model is built.

    Args:
        config: of the run.
        num_items: usable training items (captions with caption_sampling all), or None for a stream.
        num_validation: usable validation pictures, or None without validation.
        world_size: processes that share each global batch.

    Raises:
        ConfigError: all contradictions, one a line, each with its numbers and the mend.
    """
    problems = _problems_with_sizes(config, num_items, num_validation, world_size)
    if lines := [f"{field}: {message}" for field, message in problems]:
        raise ConfigError("\n".join(lines))


def _problems_with_sizes(
    config: Config, num_items: int | None, num_validation: int | None, world_size: int
) -> Iterator[Problem]:
    training = config.training
    batch = training.global_batch_size
    if num_validation is not None and num_validation < 2:
        yield "data.validation.path", f"has {num_validation} usable pairs; an evaluation needs 2 at least"
    if batch % world_size:
        yield (
            "training.global_batch_size",
            f"{batch} cannot be shared evenly by {world_size} processes; take "
            f"{max(1, batch // world_size) * world_size}",
        )
    readers = config.data.stream_readers
    if readers is not None and readers % world_size:
        yield (
            "data.stream_readers",
            f"{readers} cannot be shared evenly by {world_size} processes; take {world_size} or a multiple of it",
        )
    if num_items is None:
        return
    if num_items < 2:
        yield "data.train.path", f"has {num_items} usable pairs; training needs 2 at least"
    elif batch > num_items:
        yield (
            "training.global_batch_size",
            f"{batch} is larger than the data set of {num_items} training pairs, which has no full batch; "
            f"take {num_items} or less",
        )
    else:
        total = total_steps(config, num_items)
        if (warmup := warmup_steps(config, total)) >= total:
            yield (
                "training.warmup_steps",
                f"{warmup} steps of warm-up do not fit into the run's {total} steps ({num_items} pairs, "
                f"global_batch_size {batch}); take less than {total}, or more training.epochs",
            )
