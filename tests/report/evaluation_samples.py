"""A page of an evaluation with all kinds of panes, and texts that try to break out of it."""

from __future__ import annotations

import numpy as np
from PIL import Image
from report_samples import HOSTILE

from mmcontrast.report.evaluation import EvaluationPage
from mmcontrast.report.gallery import encode_thumbnail
from mmcontrast.report.histogram import histogram_svg
from mmcontrast.report.inputs import RetrievalExample, RetrievedItem
from mmcontrast.report.map import picture_map
from mmcontrast.report.negatives import ShownPair, ShownPicture, ShownReliability, reliability_svg
from mmcontrast.report.panes import Choice, ClassBar, ClassifiedPicture, ConfusedPair, Curve, Hub, Pane, Section
from mmcontrast.report.views import confusion_view

TEXT = f"</script></style>'\"--> {HOSTILE}"


def thumbnail(shade: int = 90) -> bytes:
    return encode_thumbnail(Image.new("RGB", (40, 30), (shade, 90, 200)))


def example(*, pictures: bool, asked: bytes | None, hit: bool = False) -> RetrievalExample:
    items = [RetrievedItem(0.5 - i / 10, hit and i == 1, TEXT, thumbnail() if pictures else None) for i in range(3)]
    best = RetrievedItem(0.1, True, TEXT, thumbnail() if pictures else None)
    return RetrievalExample(items, 2 if hit else 1234, 5000, [TEXT], asked, best)


def classified(probability: float | None = 0.97) -> ClassifiedPicture:
    return ClassifiedPicture(thumbnail(), TEXT, f"other {TEXT}", probability, 0.01, TEXT)


def all_panes(name: str = "map-1") -> list[Pane]:
    rng = np.random.default_rng(0)
    drawn = picture_map(
        name,
        [Image.new("RGB", (40, 30), (i, 90, 200)) for i in range(30)],
        rng.normal(size=(30, 2)).astype(np.float32),
        text_points=rng.normal(size=(30, 2)).astype(np.float32),
        anchors=(rng.normal(size=(2, 2)).astype(np.float32), [TEXT, "dog"]),
        captions=[TEXT] * 30,
        classes=[TEXT, "dog", ""] * 10,
        left_out=70,
    )
    counts = {"positives": np.arange(200), "negatives": np.arange(200)[::-1], "suspected": np.arange(200) // 150}
    svg = reliability_svg(ShownReliability([0.1, 0.9], [0.2, 0.5], [10, 20]), "pictures", "right")
    pair = ShownPair(ShownPicture(thumbnail(), TEXT, "row 1"), ShownPicture(None, TEXT), 0.9, 0.4)
    return [
        Pane("Classes", TEXT, bars=[ClassBar(f"{i} {TEXT}", 40 - i, 40) for i in range(40)]),
        Pane("Confused", confused=[ConfusedPair(TEXT, "dog", 3, 9, [classified()] * 3, classified(None))]),
        Pane("Mistakes", mistakes=[classified(), classified(None)]),
        Pane("Matrix", confusion=confusion_view((np.eye(3, dtype=int), [TEXT, "dog", "cow"]))),
        Pane("Reliability", curves=[Curve(svg, {TEXT: "0.5"}, TEXT)]),
        Pane(
            "Best",
            text_queries=[example(pictures=True, asked=None), example(pictures=True, asked=None, hit=True)],
            image_queries=[example(pictures=False, asked=thumbnail()), example(pictures=False, asked=None)],
        ),
        Pane("Cosines", svg=histogram_svg(counts, TEXT)),
        Pane("Suspected", pairs=[pair]),
        Pane("Hubs", hubs=[Hub(30, 80, TEXT), Hub(7, 80, "", thumbnail())]),
        Pane("Lost", choices=[Choice(thumbnail(), TEXT, TEXT, 0.1, 0.2, "noun"), Choice(None, "a", "b", 0.1, 0.1)]),
        Pane("Map", map=drawn),
    ]


def full_page() -> EvaluationPage:
    facts = {TEXT: f"/path{'/of/one/word' * 9}"}
    results = {"text_to_image_recall@1": 0.25, "image_to_text_recall@1": 0.5, "mean_recall": 0.4}
    return EvaluationPage(
        f"model {TEXT}",
        {"data": f"/a/path{'/without/any/place/to/break' * 5}"},
        [
            Section(
                TEXT,
                "retrieval",
                facts,
                results,
                {"mean_recall": 0.01},
                {},
                [TEXT],
                all_panes("map-1"),
            ),
            Section("b", "zero_shot", results={"acc1": 0.5, "acc5": None}, panes=all_panes("map-2")),
            Section("c", "geometry", results={"alignment": 1.25}),
        ],
        [TEXT],
    )
