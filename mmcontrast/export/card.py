"""The model card: README.md of an export, its pictures, and the results as the Hub reads them."""

from __future__ import annotations

from pathlib import Path

from mmcontrast.export.card_facts import CardFacts
from mmcontrast.export.card_markdown import escape, table
from mmcontrast.export.card_metadata import check_answers, eval_result_files, licence_fields, metadata
from mmcontrast.export.card_sections import data, false_negatives, limits, results, time_and_energy, training
from mmcontrast.export.card_usage import usage

CARD, ASSETS = "README.md", "assets"


def write_card(folder: str | Path, facts: CardFacts) -> Path:
    """Write README.md, assets/example-N.jpg and .eval_results/*.yaml into an existing folder.

    Args:
        folder: of the export.
        facts: what the card says.

    Returns:
        The README.md.

    Raises:
        ModelError: a language code or a name of the Hub is none.
    """
    folder = Path(folder)
    check_answers(facts.answers)
    for name, text in eval_result_files(facts).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    if facts.examples:
        (folder / ASSETS).mkdir(exist_ok=True)
    for number, example in enumerate(facts.examples, 1):
        (folder / ASSETS / f"example-{number}.jpg").write_bytes(example.picture)
    card = folder / CARD
    card.write_text(render_card(facts), encoding="utf-8")
    return card


def render_card(facts: CardFacts) -> str:
    """The text of README.md."""
    sections = {
        "": _what_it_is(facts),
        "Use": _use(facts),
        "Results": results(facts),
        "Examples": _examples(facts),
        "Training data": data(facts),
        "Training": training(facts),
        "False negatives": false_negatives(facts),
        "Limits": limits(facts),
        "Time and energy": time_and_energy(facts),
        "Licence": _licence(facts),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections.items() if text)
    made = f"Written by mmcontrast{f' {escape(facts.version)}' if facts.version else ''} from the files of the "
    made += "model's training run." if facts.run else "model alone."
    return f"---\n{metadata(facts)}\n---\n\n# {escape(facts.name)}\n\n{body}\n\n---\n\n{made}\n"


def _what_it_is(facts: CardFacts) -> str:
    model = facts.model
    lines = [
        "A dual encoder: an image tower and a text tower that put pictures and captions into one space, trained so "
        "that a picture and its caption lie close together. It searches pictures by words and words by pictures, and "
        "classifies pictures into classes that are named in words (zero-shot).",
    ]
    if facts.run is None:
        lines.append(
            "**This card knows the model only.** It was exported without the folder of its training run, so data, "
            "recipe and results are not known here."
        )
    rows = [
        ("Image tower", escape(model.image_tower), f"{model.image_parameters / 1e6:,.2f} M parameters"),
        ("Text tower", escape(model.text_tower), f"{model.text_parameters / 1e6:,.2f} M parameters"),
        ("Pictures", f"{model.image_size} x {model.image_size} pixels", ""),
        ("Captions", f"up to {model.context_length} tokens, longer ones are cut", escape(model.tokenizer)),
        ("Embedding", f"{model.embed_dim} numbers, of length 1", f"cosines count {model.logit_scale:.4g} times"),
    ]
    lines.append(table(["", "", ""], rows))
    if model.started_from:
        started = "; ".join(escape(line) for line in model.started_from)
        lines.append(f"It did not start from scratch, but from weights of others ({started}): their licence and limits "
                     "go with it.")  # fmt: skip
    return "\n\n".join(lines)


def _use(facts: CardFacts) -> str:
    parts = []
    for name, (title, code) in usage(facts.formats).items():
        checked = ""
        if (worst := facts.agreements.get(name)) is not None:
            checked = (
                f"Features and scores were compared with mmcontrast's own: they differ by {worst:.1e} at most.\n\n"
            )
        parts.append(f"### {title}\n\n{checked}```python\n{code}```")
    if facts.left_out:
        reasons = (f"- {escape(name)}: {escape(reason)}" for name, reason in facts.left_out.items())
        parts.append("Left out, since they cannot express this model:\n\n" + "\n".join(reasons))
    if facts.model.templates:
        prompts = ", ".join(f"“{escape(template)}”" for template in facts.model.templates[:8])
        parts.append(f"Classes were put into these prompts where zero-shot accuracy was measured: {prompts}.")
    return "\n\n".join(parts)


def _examples(facts: CardFacts) -> str:
    if not facts.examples:
        return ""
    rows = [
        (
            f'<img src="{ASSETS}/example-{number}.jpg" alt="{escape(example.caption)}" width="120">',
            escape(example.caption),
            escape(example.found),
            f"{example.score:.2f}",
            "yes" if example.hit else "no",
        )
        for number, example in enumerate(facts.examples, 1)
    ]
    head = ["Picture", "Its caption", "The model's choice", "Cosine ", "Its own?"]
    return (
        f"Pictures drawn at random, neither good nor bad ones picked, and the caption that the model finds closest "
        f"among {facts.gallery:,} captions.\n\n{table(head, rows)}"
    )


def _licence(facts: CardFacts) -> str:
    if facts.answers.licence is None:
        return "No licence was given for this model. Without one nobody is allowed to use it: ask its author."
    fields = licence_fields(facts.answers.licence)
    return f"{escape(facts.answers.licence)}" if fields["license"] == "other" else f"`{fields['license']}`"
