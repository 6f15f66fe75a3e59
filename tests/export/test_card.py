"""The text of a card: what it says, what it does not know, and that strangers' text stays text."""

from __future__ import annotations

import dataclasses
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import EvalResult
from markdown_it import MarkdownIt
from PIL import Image

from mmcontrast.errors import ModelError
from mmcontrast.export.card import render_card, write_card
from mmcontrast.export.card_facts import (
    CardAnswers,
    CardFacts,
    DataFacts,
    ExamplePicture,
    ModelFacts,
    RunFacts,
    Score,
    public_name,
)
from mmcontrast.export.card_markdown import escape, plain

HOSTILE = (
    '</table><script>alert(1)</script> | ![x](http://evil.example/p.png) [a](javascript:b) `c` **d** <img src=x '
    "onerror=y> ~~e~~ $f$ &amp; www.evil.example \\ {{ 7 * 7 }} # - ```"
)  # fmt: skip
SAFE_TAGS = {"h1", "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "pre", "code", "strong",
             "img", "hr", "a"}  # fmt: skip


class Page(HTMLParser):
    """What a browser makes of a card's body, after a renderer of Markdown that lets HTML pass."""

    def __init__(self, card: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        body = card.split("\n---\n", 1)[1]
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    return buffer.getvalue()


MODEL = ModelFacts(
    image_tower="resnet10t (timm)",
    text_tower="open_clip",
    image_parameters=1_500_000,
    text_parameters=500_000,
    parameters=2_000_001,
    image_size=64,
    context_length=32,
    embed_dim=128,
    tokenizer="sentencepiece, 4,000 tokens",
    logit_scale=20.0,
    templates=["a photo of a {c}."],
)
RUN = RunFacts(
    train=DataFacts("train.csv", pictures=2000, captions=8000, left_out=3),
    validation=DataFacts("pairs", "validation", 400, 1600, hub_id="owner/pairs"),
    recipe={"training.loss": "info_nce", "training.learning_rate": "0.001"},
    negatives=[("Pushed apart wrongly, as believed", "0.40 %", "1.0 of the 255 others in a batch of 256")],
    scores=[
        Score("retrieval", "text_to_image_recall@1", 0.25, 0.21, 0.29, 0.0025),
        Score("retrieval", "text_to_image_mean_rank", 12.5, 10.1, 15.2),
        Score("retrieval", "text_to_image_recall@10", None),
        Score("zero_shot", "acc1", 0.8125, 0.77, 0.85, 0.1),
    ],
    chosen_by="retrieval.mean_recall",
    chosen_at=120,
    notes=["retrieval: a picture and a caption belong together by id"],
    seconds=5400.0,
    device="CPU, 2 threads",
    finished="2026-01-02",
)
FACTS = CardFacts("my-model", MODEL, ("transformers", "open_clip"), run=RUN, version="1.2.3")


def with_answers(**answers: object) -> CardFacts:
    return dataclasses.replace(FACTS, answers=CardAnswers(**answers))  # type: ignore[arg-type]


def test_what_is_known_is_said() -> None:
    answers = CardAnswers(licence="apache-2.0", datasets=["Our photos=CC BY 4.0"], languages=["en"])
    page = Page(render_card(dataclasses.replace(FACTS, answers=answers)))
    for words in (
        "my-model", "resnet10t (timm)", "2,000", "8,000", "25.0 %", "21.0 – 29.0 %", "0.2 %", "81.2 %", "12.5",
        "10.1 – 15.2", "400 pictures", "training.learning_rate", "Pushed apart wrongly", "90.0 minutes", "2 threads",
        "Our photos: CC BY 4.0", "apache-2.0", "(step 120)", "captions in en", "a photo of a {c}.",
        "belong together by id",
    ):  # fmt: skip
        assert words in page.text, words
    assert "recall@10" not in page.text  # a metric that is not defined is no row
    assert {tag for tag, _ in page.tags} <= SAFE_TAGS


def test_a_model_without_its_run_says_so() -> None:
    card = render_card(CardFacts("alone", MODEL, ("transformers",)))
    page = Page(card)
    assert "This card knows the model only." in page.text
    assert page.text.count("Not known: the model was exported without its training run.") == 5
    assert "No licence was given" in page.text
    assert "measure it before you rely on it" in page.text
    data = ModelCard(card).data
    assert data.eval_results is None
    assert data.license is None


def test_strangers_text_is_shown_and_never_interpreted() -> None:
    example = ExamplePicture(jpeg(), HOSTILE, HOSTILE, 0.5, False)
    facts = CardFacts(
        HOSTILE,
        dataclasses.replace(MODEL, image_tower=HOSTILE, tokenizer=HOSTILE, templates=[HOSTILE], started_from=[HOSTILE]),
        ("transformers", HOSTILE),
        run=RunFacts(
            train=DataFacts(HOSTILE, HOSTILE, 1, 1),
            validation=DataFacts(HOSTILE, HOSTILE, 1, 1),
            recipe={HOSTILE: HOSTILE},
            negatives=[(HOSTILE, HOSTILE, HOSTILE)],
            scores=[Score(HOSTILE, HOSTILE, 0.5, 0.4, 0.6, 0.1)],
            chosen_by=HOSTILE,
            notes=[HOSTILE],
            seconds=1.0,
            device=HOSTILE,
        ),
        answers=CardAnswers(licence=HOSTILE, datasets=[HOSTILE.replace("=", "") + "=" + HOSTILE]),
        examples=[example],
        gallery=1,
        left_out={HOSTILE: HOSTILE},
        version=HOSTILE,
    )
    card = render_card(facts)
    page = Page(card)
    assert {tag for tag, _ in page.tags} <= SAFE_TAGS
    assert [attrs for tag, attrs in page.tags if tag == "a"] == []
    assert page.count("img") == 1
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert image["src"] == "assets/example-1.jpg"
    assert image["alt"] == plain(HOSTILE)
    assert set(image) == {"src", "alt", "width"}
    assert page.text.count(plain(HOSTILE)) > 20  # each to the letter
    assert "49" not in page.text.replace(HOSTILE, "")
    data = ModelCard(card).data
    assert data.model_name == plain(HOSTILE)
    assert data.license == "other"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r\n| of text", "two lines | of text"),
        ("a\x00b\x1b[31mc", "ab[31mc"),
        ("abc\u202edef", "abcdef"),
        ("x" * 500, "x" * 299 + "…"),
        ("狗在跑 — ça va?", "狗在跑 — ça va?"),
    ],
)
def test_text_becomes_one_plain_line(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert Page(f"\n---\n{escape(text)}").text.strip() == shown


def test_front_matter_is_what_the_hub_reads() -> None:
    answers = CardAnswers(licence="MIT", datasets=["owner/train=cc-by-4.0", "My own photos"], languages=["en", "no"])
    card = ModelCard(render_card(dataclasses.replace(FACTS, answers=answers)))
    data = card.data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert data.tags is not None
    assert {"clip", "mmcontrast", "open_clip", "transformers"} <= set(data.tags)
    assert data.license == "mit"
    assert data.datasets == ["owner/train"]
    assert data.language == ["en", "no"]  # and not False, as YAML reads a bare no
    assert data.model_name == "my-model"
    assert data.eval_results is not None
    results: list[EvalResult] = data.eval_results
    assert [(r.task_type, r.metric_type, r.metric_value) for r in results] == [
        ("image-text-retrieval", "text_to_image_recall@1", 0.25),
        ("image-text-retrieval", "text_to_image_mean_rank", 12.5),
        ("zero-shot-image-classification", "acc1", 0.8125),
    ]
    assert results[0].metric_args == {"interval_95": [0.21, 0.29]}
    assert (results[0].dataset_type, results[0].dataset_split) == ("owner/pairs", "validation")


def test_a_licence_the_hub_does_not_know_is_other() -> None:
    data = ModelCard(render_card(with_answers(licence="Our Lab's Licence, v2"))).data
    assert data.license == "other"
    assert data.license_name == "our-lab-s-licence-v2"


@pytest.mark.parametrize(
    ("formats", "library"),
    [
        (("open_clip", "onnx"), "open_clip"),
        (("sentence_transformers",), "sentence-transformers"),
        (("mmcontrast",), "mmcontrast"),
        ((), None),
    ],
)
def test_library_of_the_first_format(formats: tuple[str, ...], library: str | None) -> None:
    assert ModelCard(render_card(dataclasses.replace(FACTS, formats=formats))).data.library_name == library


def test_eval_results_are_those_of_the_hubs_own_parser(tmp_path: Path) -> None:
    write_card(tmp_path, FACTS)
    files = sorted((tmp_path / ".eval_results").iterdir())
    assert [file.name for file in files] == ["retrieval.yaml", "zero_shot.yaml"]
    entries = [parse_eval_result_entries(yaml.safe_load(file.read_text(encoding="utf-8"))) for file in files]
    ((recall,), (accuracy,)) = entries
    assert (recall.dataset_id, recall.task_id, recall.value) == (
        "owner/pairs",
        "retrieval.text_to_image_recall@1",
        0.25,
    )
    assert recall.notes == "95 % interval 0.21 to 0.29; measured by mmcontrast 1.2.3"
    assert accuracy.date == "2026-01-02"


def test_no_eval_results_for_data_that_is_not_on_the_hub(tmp_path: Path) -> None:
    local = dataclasses.replace(RUN, validation=DataFacts("val.csv", pictures=10))
    write_card(tmp_path, dataclasses.replace(FACTS, run=local))
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    named = dataclasses.replace(FACTS, run=local, answers=CardAnswers(eval_dataset="me/val"))
    write_card(tmp_path, named)
    text = (tmp_path / ".eval_results" / "retrieval.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)[0]["dataset"]["id"] == "me/val"


def test_pictures_lie_beside_the_card(tmp_path: Path) -> None:
    examples = [ExamplePicture(jpeg(), "a red square", "a red thing", 0.61, True)] * 4
    write_card(tmp_path, dataclasses.replace(FACTS, examples=examples, gallery=700))
    assert len(list((tmp_path / "assets").iterdir())) == 4
    page = Page((tmp_path / "README.md").read_text(encoding="utf-8"))
    for tag, attrs in page.tags:
        if tag == "img":
            assert attrs["src"] is not None
            with Image.open(tmp_path / attrs["src"]) as picture:
                assert picture.format == "JPEG"
    assert "among 700 captions" in page.text


def test_energy_is_an_estimate_with_its_assumption() -> None:
    assert "Energy was not measured." in Page(render_card(FACTS)).text
    page = Page(render_card(with_answers(watts=300.0)))
    assert "at an assumed 300 W for the whole machine it is about 0.45 kWh" in page.text
    unknown = dataclasses.replace(FACTS, run=dataclasses.replace(RUN, seconds=None))
    assert "does not say how long" in Page(render_card(unknown)).text


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"languages": ["English"]}, "--language 'English' is no ISO 639 code"),
        ({"eval_dataset": "my val set"}, "--eval-dataset: 'my val set' is no name on the Hub"),
        ({"licence": " "}, "--license is empty"),
        ({"datasets": ["=mit"]}, "--dataset has no name"),
        ({"watts": -1.0}, "--watts -1.0 is no power"),
        ({"watts": float("nan")}, "--watts nan is no power"),
    ],
)
def test_bad_answers_write_nothing(answers: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        write_card(tmp_path, with_answers(**answers))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/secret/train.csv", "train.csv"),
        ("~/data/train", "train"),
        ("../up/pairs.parquet", "pairs.parquet"),
        ("some/deep/folder/", "folder"),
        ("C:\\data\\train.csv", "train.csv"),
        ("owner/name", "owner/name"),
        ("owner/name:config", "owner/name:config"),
        ("synthetic://scenes", "synthetic://scenes"),
        ("info_nce", "info_nce"),
    ],
)
def test_paths_tell_nothing_of_the_machine(value: str, shown: str) -> None:
    assert public_name(value) == shown


def test_the_card_says_what_was_checked_and_left_out() -> None:
    facts = dataclasses.replace(FACTS, agreements={"open_clip": 1.25e-7}, left_out={"onnx": "towers are | odd"})
    page = Page(render_card(facts))
    assert page.text.count("they differ by") == 1  # transformers was not checked
    assert "by 1.2e-07 at most" in page.text
    assert "onnx: towers are | odd" in page.text


def test_same_facts_same_card() -> None:
    assert render_card(FACTS) == render_card(FACTS)
