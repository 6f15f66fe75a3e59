"""What a model card is made of: plain values. Whatever is not known is None or empty, and the card says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmcontrast.models import DualEncoder


@dataclass(frozen=True)
class DataFacts:
    """One set of pairs.

    Attributes:
        name: what to call it in public: a Hub name, or the last part of a path.
        split: of it, or None.
        pictures: that can be used.
        captions: of them.
        left_out: rows that cannot be used.
        hub_id: where it lies on the Hub, or None.
    """

    name: str
    split: str | None = None
    pictures: int | None = None
    captions: int | None = None
    left_out: int = 0
    hub_id: str | None = None


@dataclass(frozen=True)
class Score:
    """One result; `low` and `high` are the ends of its interval, `chance` what guessing would score."""

    task: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class ExamplePicture:
    """A picture, its own caption, and what the model found for it.

    Attributes:
        picture: JPEG bytes.
        caption: its own.
        found: the best caption of the gallery for it.
        score: cosine of that one.
        hit: it is one of the picture's own.
    """

    picture: bytes
    caption: str
    found: str
    score: float
    hit: bool


@dataclass(frozen=True)
class RunFacts:
    """The training run of a model.

    Attributes:
        train, validation: the pairs; None for no validation.
        recipe: label -> value, in the order they are shown.
        negatives: (label, value, hint), who was pushed apart wrongly, as far as the run could tell.
        scores: of the saved model on the validation pairs.
        level: of the scores' intervals.
        chosen_by: the metric that the saved model was chosen by on the same pairs, or None.
        chosen_at: the step it was chosen at.
        notes: what the reader of the scores should know.
        seconds: of training, evaluations not counted; None where the log does not say.
        device: what it ran on.
        processes: how many.
        finished: day (ISO 8601) of the results, or None.
    """

    train: DataFacts
    validation: DataFacts | None = None
    recipe: Mapping[str, str] = field(default_factory=dict)
    negatives: Sequence[tuple[str, str, str]] = ()
    scores: Sequence[Score] = ()
    level: float = 0.95
    chosen_by: str | None = None
    chosen_at: int | None = None
    notes: Sequence[str] = ()
    seconds: float | None = None
    device: str | None = None
    processes: int = 1
    finished: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """The model itself: what its folder says."""

    image_tower: str
    text_tower: str
    image_parameters: int
    text_parameters: int
    parameters: int
    image_size: int
    context_length: int
    embed_dim: int
    tokenizer: str
    logit_scale: float
    templates: Sequence[str] = ()
    started_from: Sequence[str] = ()


@dataclass(frozen=True)
class CardAnswers:
    """What only the author of a model can say for its card.

    Attributes:
        name: of the model; None takes that of the run's folder.
        licence: of the model, an identifier of the Hub ("apache-2.0") or any other text.
        datasets: "NAME" or "NAME=LICENCE" of the training data; names that are on the Hub become links.
        eval_dataset: Hub name of the validation pairs; the results are then also written to .eval_results.
        languages: ISO 639 codes of the captions' languages.
        pictures: show some of the data's pictures; None shows those of synthetic scenes, which are nobody's, only.
        watts: what the whole machine draws while it trains, to estimate energy by.
    """

    name: str | None = None
    licence: str | None = None
    datasets: Sequence[str] = ()
    eval_dataset: str | None = None
    languages: Sequence[str] = ()
    pictures: bool | None = None
    watts: float | None = None

    @property
    def licences(self) -> dict[str, str | None]:
        """Name of each data set -> its licence, None where none was given."""
        parts = [given.partition("=") for given in self.datasets]
        return {name.strip(): licence.strip() or None for name, _, licence in parts}


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says.

    Attributes:
        name: of the model; its headline.
        model: the model itself.
        formats: that the export holds.
        run: its training, or None where the model came without it.
        answers: of its author.
        examples: pictures that may be shown.
        gallery: how many captions the examples were searched in.
        agreements: of each format that was checked, the greatest difference of a library's results from ours.
        left_out: of each format that cannot express the model, why.
        version: of mmcontrast.
    """

    name: str
    model: ModelFacts
    formats: Sequence[str]
    run: RunFacts | None = None
    answers: CardAnswers = field(default_factory=CardAnswers)
    examples: Sequence[ExamplePicture] = ()
    gallery: int = 0
    agreements: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    version: str = ""


def model_facts(model: DualEncoder) -> ModelFacts:
    """What a model says of itself."""
    spec, tokenizer = model.spec, model.tokenizer
    started = [
        f"{side} tower: {_weights(tower.name, tower.pretrained)}"
        for side, tower in (("image", spec.image), ("text", spec.text))
        if tower.pretrained is not False
    ]
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return ModelFacts(
        image_tower=_tower(spec.image.library, spec.image.name),
        text_tower=_tower(spec.text.library, spec.text.name),
        image_parameters=count["image_encoder"] + count.get("image_projection", 0),
        text_parameters=count["text_encoder"] + count.get("text_projection", 0),
        parameters=sum(p.numel() for p in model.parameters()),
        image_size=model.preprocess.image_size,
        context_length=spec.text.context_length,
        embed_dim=spec.embed_dim,
        tokenizer=f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens",
        logit_scale=float(model.logit_scale.detach().exp()),
        templates=model.templates or (),
        started_from=started,
    )


def public_name(value: str) -> str:
    """A path without what it tells of the machine: its last part. Hub names ("owner/name") stay as they are."""
    looks_local = value.startswith(("/", "~", ".", "\\")) or "\\" in value or value.count("/") > 1
    if "://" in value or not looks_local:
        return value
    return value.replace("\\", "/").rstrip("/").rpartition("/")[2] or value


def _tower(library: str, name: str | None) -> str:
    return f"{public_name(name)} ({library})" if name else library


def _weights(name: str | None, pretrained: bool | str) -> str:
    tag = f", weights {public_name(pretrained)}" if isinstance(pretrained, str) else ""
    return f"{public_name(name) if name else 'pretrained'}{tag}"
