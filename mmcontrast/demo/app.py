"""How the demo looks: a thin layer of gradio over a `Session`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any

from mmcontrast.demo.session import MOST_SHOWN, Found, Session
from mmcontrast.errors import MMContrastError, printable

EXAMPLES = 4
_LONGEST_EXAMPLE = 48
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]
STYLE = """
.gradio-container { width: 100%; max-width: 1240px !important; margin: 0 auto !important; }
.about h1 { font-size: 28px; letter-spacing: -.02em; margin: 12px 0 2px; overflow-wrap: anywhere; }
.about p, .notes p { color: var(--body-text-color-subdued); margin: 2px 0; overflow-wrap: anywhere; }
.found .grid-wrap { height: auto; max-height: none; overflow: visible; }
.found .grid-container { grid-template-columns: repeat(auto-fill, minmax(min(170px, 44%), 1fr)) !important;
  grid-auto-rows: auto; align-items: stretch; }
.found .thumbnail-item { display: flex; flex-direction: column; aspect-ratio: auto; height: 100%; }
.found .thumbnail-item img { aspect-ratio: 1; height: auto; width: 100%; }
.found .caption-label { position: static; max-width: none; width: 100%; padding: 8px 10px 10px; text-align: left;
  border: 0; border-radius: 0; background: none; box-shadow: none; overflow-wrap: anywhere;
  white-space: normal; font-size: 14px; line-height: 1.4; }
footer { display: none !important; }
"""


def require_gradio() -> Any:
    """The library, told to call nobody; or an error that says how to get it."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        return import_module("gradio")
    except ImportError:
        raise MMContrastError("the demo needs gradio: pip install 'mmcontrast[demo]'") from None


def looks(gradio: Any) -> dict[str, Any]:
    """Theme and style; fonts are the system's, so that none is fetched."""
    theme = gradio.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=_FONTS, font_mono=_MONO)
    return {"theme": theme, "css": STYLE}


def build_app(session: Session, title: str, about: str) -> Any:
    """The page: search by words, by a picture, and zero-shot classes.

    Args:
        session: answers.
        title: what is searched.
        about: a line on it.
    """
    gradio = require_gradio()
    with gradio.Blocks(title=printable(title), analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gradio.HTML(
            f"<h1>Search in {escape(printable(title))}</h1><p>{escape(printable(about))}</p>", elem_classes="about"
        )
        with gradio.Tab("Words"):
            _words(gradio, session)
        with gradio.Tab("Picture"):
            _picture(gradio, session)
        with gradio.Tab("Classes"):
            _classes(gradio, session)
    return blocks


def _words(gradio: Any, session: Session) -> None:
    with gradio.Row():
        words = gradio.Textbox(
            label="What is to be seen?",
            placeholder="a red bus in front of a house",
            scale=4,
            min_width=260,
            autofocus=True,
            elem_id="words",
        )
        count = _count(gradio)
    button = gradio.Button("Search", variant="primary", elem_id="search-words")
    if examples := _examples(session):
        gradio.Examples([[text] for text in examples], inputs=[words], label="Try what some of the pictures show")
    shown, notes = _gallery(gradio), gradio.HTML(elem_classes="notes")
    answer = _answering(gradio, session.by_words)
    gradio.on(
        [words.submit, button.click], answer, inputs=[words, count], outputs=[shown, notes], api_name="search_words"
    )


def _picture(gradio: Any, session: Session) -> None:
    with gradio.Row():
        with gradio.Column(scale=1, min_width=260):
            upload = _upload(gradio, "picture")
            count = _count(gradio)
            button = gradio.Button("Find pictures like it", variant="primary", elem_id="search-picture")
        with gradio.Column(scale=3):
            shown, notes = _gallery(gradio), gradio.HTML(elem_classes="notes")
    answer = _answering(gradio, session.by_picture)
    button.click(answer, inputs=[upload, count], outputs=[shown, notes], api_name="search_picture")


def _classes(gradio: Any, session: Session) -> None:
    with gradio.Row():
        with gradio.Column(scale=1, min_width=260):
            upload = _upload(gradio, "class-picture")
            names = gradio.Textbox(
                label="Classes", info="One a line, or with commas between them", lines=4, elem_id="classes"
            )
            button = gradio.Button("Which one is it?", variant="primary", elem_id="classify")
        with gradio.Column(scale=2):
            result = gradio.Label(
                label="Probability, if it is one of them", num_top_classes=20, elem_id="probabilities"
            )

    def answer(path: str | None, text: str) -> dict[str, float]:
        with _told(gradio):
            return {printable(name): share for name, share in session.classify(path, text).items()}

    button.click(answer, inputs=[upload, names], outputs=result, api_name="classify")


def _upload(gradio: Any, name: str) -> Any:
    """A field for a picture, whose value is the path of the uploaded file as it came."""
    field = gradio.Image(
        label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=280, elem_id=name
    )
    # gradio itself would decode it, whatever its size; that is ours to do, and to refuse.
    field.preprocess = lambda uploaded: None if uploaded is None else uploaded.path
    return field


def _count(gradio: Any) -> Any:
    return gradio.Slider(1, MOST_SHOWN, value=12, step=1, label="Pictures shown", scale=1, min_width=220)


def _gallery(gradio: Any) -> Any:
    return gradio.Gallery(
        show_label=False, height="auto", object_fit="cover", format="jpeg", buttons=["fullscreen"], elem_classes="found"
    )


def _examples(session: Session) -> list[str]:
    """Captions of pictures that are spread over the collection."""
    source, positions = session.searcher.collection.source, session.searcher.indexed.positions.tolist()
    found: dict[str, None] = {}
    for position in positions[:: max(1, len(positions) // (10 * EXAMPLES))]:
        short = [text for text in source.captions(position) if len(text) <= _LONGEST_EXAMPLE]
        found |= dict.fromkeys(map(printable, short[:1]))
    return list(found)[:: max(1, len(found) // EXAMPLES)][:EXAMPLES]


def _answering(gradio: Any, ask: Callable[[Any, int], Found]) -> Callable[[Any, float], tuple[Any, str]]:
    def answer(query: Any, count: float) -> tuple[Any, str]:
        with _told(gradio):
            found = ask(query, int(count))
        return found.pictures, "".join(f"<p>{escape(note)}</p>" for note in found.notes)

    return answer


@contextmanager
def _told(gradio: Any) -> Iterator[None]:
    """Errors of ours become gradio's, whose text it takes for HTML."""
    try:
        yield
    except MMContrastError as error:
        raise gradio.Error(escape(str(error)), print_exception=False) from None
