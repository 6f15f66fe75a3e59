"""What the Hub reads of a card: the YAML at its head, and the files in .eval_results."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from mmcontrast.errors import ModelError
from mmcontrast.export.card_facts import CardAnswers, CardFacts, Score
from mmcontrast.export.card_markdown import plain

PIPELINE = "zero-shot-image-classification"
_LIBRARIES = {
    "transformers": "transformers",
    "open_clip": "open_clip",
    "sentence_transformers": "sentence-transformers",
    "onnx": "onnx",
    "mmcontrast": "mmcontrast",
}
_LICENCES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 gemma gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1
llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other
pddl postgresql unknown unlicense wtfpl zlib
"""
"""Identifiers that the Hub takes; any other licence is "other" with a name."""
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")
_TASKS = {"retrieval": "image-text-retrieval", "zero_shot": PIPELINE}
_HEADLINES = {
    "retrieval": ("text_to_image_recall@1", "image_to_text_recall@1", "mean_recall"),
    "zero_shot": ("acc1", "mean_per_class_recall"),
}


def check_answers(answers: CardAnswers) -> None:
    """What the author said, before anything is loaded or written.

    Raises:
        ModelError: a language is no code, or the name of a data set on the Hub is none.
    """
    for language in answers.languages:
        if not _LANGUAGE.fullmatch(language):
            raise ModelError(f"--language {language!r} is no ISO 639 code; take two or three letters, such as en or de")
    if answers.eval_dataset is not None and not _HUB_ID.fullmatch(answers.eval_dataset):
        raise ModelError(f"--eval-dataset: {answers.eval_dataset!r} is no name on the Hub; write owner/name")
    if answers.licence is not None and not plain(answers.licence):
        raise ModelError("--license is empty; leave it out where there is none")
    if any(not plain(name) for name in answers.licences):
        raise ModelError("--dataset has no name; write NAME or NAME=LICENCE")
    if answers.watts is not None and not 0 < answers.watts < float("inf"):
        raise ModelError(f"--watts {answers.watts} is no power; give the draw of the whole machine in watts")


def metadata(facts: CardFacts) -> str:
    """The card's YAML, without its two lines of dashes."""
    libraries = [_LIBRARIES[name] for name in facts.formats if name in _LIBRARIES]
    licence = licence_fields(facts.answers.licence)
    data = ModelCardData(
        language=list(facts.answers.languages) or None,
        library_name=libraries[0] if libraries else None,
        pipeline_tag=PIPELINE,
        tags=["clip", "contrastive", "image-text-retrieval", "mmcontrast", *libraries],
        datasets=hub_datasets(facts) or None,
        model_name=plain(facts.name) if scores(facts) else None,
        eval_results=list(_eval_results(facts)) or None,
        license=licence.get("license"),
        license_name=licence.get("license_name"),
    )
    return data.to_yaml()


def licence_fields(licence: str | None) -> dict[str, str]:
    """`license`, and its name where the Hub has no identifier for it; nothing where none was given."""
    if licence is None:
        return {}
    name = plain(licence, 90)
    if name.lower() in _LICENCES.split():
        return {"license": name.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.+]+", "-", name.lower()).strip("-") or "other"}


def hub_datasets(facts: CardFacts) -> list[str]:
    """The data sets of the training that are on the Hub."""
    names = [name for name in facts.answers.licences if _HUB_ID.fullmatch(name)]
    if facts.run is not None and facts.run.train.hub_id is not None:
        names.append(facts.run.train.hub_id)
    return list(dict.fromkeys(names))


def scores(facts: CardFacts) -> list[Score]:
    """The results that have a value."""
    return [] if facts.run is None else [score for score in facts.run.scores if score.value is not None]


def eval_dataset(facts: CardFacts) -> str | None:
    """Where the validation pairs lie on the Hub; None where they do not."""
    if facts.answers.eval_dataset is not None or facts.run is None or facts.run.validation is None:
        return facts.answers.eval_dataset
    return facts.run.validation.hub_id


def eval_result_files(facts: CardFacts) -> dict[str, str]:
    """.eval_results/TASK.yaml -> its text.

    The Hub ties each entry to a data set of its own: there are none for validation pairs that lie elsewhere.
    """
    dataset = eval_dataset(facts)
    if dataset is None or facts.run is None:
        return {}
    files = {}
    for task, metrics in _HEADLINES.items():
        entries = [
            EvalResultEntry(
                dataset_id=dataset,
                task_id=f"{task}.{score.metric}",
                value=score.value,
                date=facts.run.finished,
                notes=_note(facts, score),
            )
            for score in scores(facts)
            if score.task == task and score.metric in metrics
        ]
        if entries:
            text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
            files[f".eval_results/{task}.yaml"] = text
    return files


def _eval_results(facts: CardFacts) -> Iterator[EvalResult]:
    if facts.run is None or facts.run.validation is None:
        return
    for score in scores(facts):
        bounds = None if score.low is None else {_interval_name(facts): [score.low, score.high]}
        yield EvalResult(
            task_type=_TASKS.get(score.task, score.task),
            task_name=score.task.replace("_", "-"),
            dataset_type=eval_dataset(facts) or "unknown",
            dataset_name=plain(facts.run.validation.name),
            dataset_split=facts.run.validation.split,
            metric_type=score.metric,
            metric_name=score.metric.replace("_", " "),
            metric_value=score.value,
            metric_args=bounds,
        )


def _interval_name(facts: CardFacts) -> str:
    level = 0.95 if facts.run is None else facts.run.level
    return f"interval_{100 * level:g}"


def _note(facts: CardFacts, score: Score) -> str:
    level = 95 if facts.run is None else 100 * facts.run.level
    interval = "" if score.low is None else f"{level:g} % interval {score.low:.4g} to {score.high:.4g}; "
    return f"{interval}measured by mmcontrast {facts.version}".rstrip()
