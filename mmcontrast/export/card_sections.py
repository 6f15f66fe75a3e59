"""The sections of a card that come from the training run; each says what is not known."""

from __future__ import annotations

from collections.abc import Iterator

from mmcontrast.export.card_facts import CardFacts, DataFacts, Score
from mmcontrast.export.card_markdown import escape, table
from mmcontrast.export.card_metadata import scores

UNKNOWN = "Not known: the model was exported without its training run."
_TITLES = {"retrieval": "Retrieval", "zero_shot": "Zero-shot classification"}


def results(facts: CardFacts) -> str:
    """A table a task, with intervals and chance."""
    run, found = facts.run, scores(facts)
    if run is None:
        return UNKNOWN
    if run.validation is None or not found:
        return "Nothing was measured: the run had no validation pairs."
    level = f"{100 * run.level:g} %"
    lines = [f"Of the saved model on {_of_data(run.validation)}."]
    for task in dict.fromkeys(score.task for score in found):
        mine = [score for score in found if score.task == task]
        head = ["Metric", "Value ", f"{level} interval ", "Chance "]
        rows = [(escape(s.metric.replace("_", " ")), _value(s, s.value), _bounds(s), _value(s, s.chance)) for s in mine]
        lines.append(f"### {escape(_TITLES.get(task, task))}\n\n{table(head, rows)}")
    if any(score.low is not None for score in found):
        lines.append(
            "Intervals are bootstrap intervals over pictures, each with all its captions; the gallery is kept. They "
            "tell how much the choice of pictures matters, not how much another training run would differ."
        )
    if run.chosen_by is not None:
        at = "" if run.chosen_at is None else f" (step {run.chosen_at:,})"
        lines.append(
            f"The saved model is the one{at} with the best {escape(run.chosen_by)} on these same pairs, so the numbers "
            "flatter it a little: on pairs that took no part in the choice expect slightly less."
        )
    lines += [f"- {escape(note, 600)}" for note in run.notes]
    return "\n\n".join(lines)


def data(facts: CardFacts) -> str:
    """Names, sizes and licences."""
    lines = []
    if facts.run is None:
        lines.append(UNKNOWN)
    else:
        rows = [_data_row("training", facts.run.train)]
        if facts.run.validation is not None:
            rows.append(_data_row("validation", facts.run.validation))
        lines.append(table(["Pairs", "Name", "Split", "Pictures ", "Captions ", "Rows left out "], rows))
    if facts.answers.licences:
        given = (
            f"- {escape(name)}: {escape(licence or 'licence not given')}"
            for name, licence in facts.answers.licences.items()
        )
        lines.append("Data sets and their licences, as the author of this card gives them:\n\n" + "\n".join(given))
    else:
        lines.append("No licence of the data was given.")
    return "\n\n".join(lines)


def training(facts: CardFacts) -> str:
    """The recipe."""
    if facts.run is None:
        return UNKNOWN
    rows = [(escape(name), escape(value)) for name, value in facts.run.recipe.items()]
    intro = "What the config of the run says; settings that are not listed have their defaults.\n\n"
    return intro + table(["Setting", "Value"], rows) if rows else "All settings had their defaults."


def false_negatives(facts: CardFacts) -> str:
    """Who was pushed apart wrongly, as far as the run could tell."""
    if facts.run is None:
        return UNKNOWN
    intro = (
        "A contrastive loss pushes each picture away from the captions of the others in its batch. Some of those fit "
        "the picture all the same: false negatives."
    )
    if not facts.run.negatives:
        return f"{intro} This run did not look for them."
    rows = [(escape(label), escape(value), escape(hint)) for label, value, hint in facts.run.negatives]
    return f"{intro}\n\n{table(['Of the training pairs', 'Value ', ''], rows)}"


def limits(facts: CardFacts) -> str:
    """What nobody should expect of the model."""
    return "\n".join(f"- {line}" for line in _limits(facts))


def _limits(facts: CardFacts) -> Iterator[str]:
    model, run = facts.model, facts.run
    if run is None:
        yield "What it was trained on and how well it works are not known here: measure it before you rely on it."
    else:
        pictures = run.train.pictures
        if pictures is not None:
            yield f"It has seen {pictures:,} pictures. What is not among them, it does not know."
        yield (
            "The results hold for pairs like the validation pairs. On pictures of another kind expect less."
            if run.validation is not None
            else "It was never measured on pairs that it did not learn from."
        )
    if facts.answers.languages:
        languages = escape(", ".join(facts.answers.languages))
        yield f"It reads captions in {languages}; in other languages its answers mean nothing."
    else:
        yield "The language of its captions was not given; it reads no other language than that of its training."
    yield (
        f"Pictures are scaled to {model.image_size} x {model.image_size} pixels, so small things are lost; captions "
        f"are cut after {model.context_length} tokens."
    )
    yield (
        "It ranks, it does not know: the shares of a zero-shot classification always add up to 1, even where none of "
        "the classes fits, and they are not calibrated."
    )
    yield (
        "It was not examined for bias, nor for safety. It repeats what its captions say of people and things. Do not "
        "use it to identify people or to decide about them."
    )


def time_and_energy(facts: CardFacts) -> str:
    """Measured time; energy only where somebody said what the machine draws."""
    run = facts.run
    if run is None:
        return UNKNOWN
    if run.seconds is None:
        return "The run's log does not say how long it trained. Energy was not measured."
    where = f" on {escape(run.device)}" if run.device else ""
    several = f", {run.processes} processes" if run.processes > 1 else ""
    line = f"Training took {duration(run.seconds)}{where}{several}, measured; evaluations are not counted."
    if facts.answers.watts is None:
        return f"{line} Energy was not measured."
    watts, energy = facts.answers.watts, facts.answers.watts * run.seconds / 3.6e6
    amount = f"{energy:.3g} kWh" if energy >= 0.1 else f"{1000 * energy:.3g} Wh"
    return f"{line} Energy was not measured; at an assumed {watts:g} W for the whole machine it is about {amount}."


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _data_row(role: str, of: DataFacts) -> tuple[str, ...]:
    counts = ("not known" if n is None else f"{n:,}" for n in (of.pictures, of.captions))
    return (role, escape(of.name), escape(of.split or ""), *counts, f"{of.left_out:,}")


def _of_data(of: DataFacts) -> str:
    sizes = [f"{n:,} {what}" for n, what in ((of.pictures, "pictures"), (of.captions, "captions")) if n]
    split = f", split {escape(of.split)}" if of.split else ""
    return f"the validation pairs {escape(of.name)}{split}" + (f" ({', '.join(sizes)})" if sizes else "")


def _is_share(score: Score) -> bool:
    return not score.metric.endswith("rank")


def _value(score: Score, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if _is_share(score) else f"{value:,.4g}"


def _bounds(score: Score) -> str:
    if score.low is None or score.high is None:
        return ""
    if _is_share(score):
        return f"{100 * score.low:.1f} – {100 * score.high:.1f} %"
    return f"{score.low:,.4g} – {score.high:,.4g}"
