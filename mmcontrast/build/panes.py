"""From an evaluation to what a page shows of it: the panes of each task."""

from __future__ import annotations

from mmcontrast.build.mapping import map_pane
from mmcontrast.build.negatives_view import reliability_numbers
from mmcontrast.build.pictures import Pictures
from mmcontrast.build.search_panes import JUDGED, Judge, retrieval_panes, same_kind_panes
from mmcontrast.errors import DataError
from mmcontrast.evaluation.caption_selection import hard_choices
from mmcontrast.evaluation.confidence import confidence
from mmcontrast.evaluation.outcomes import Classified, Confidences, Details
from mmcontrast.evaluation.queries import some
from mmcontrast.evaluation.reliability import reliability
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.report.classification import Classification, classification_panes
from mmcontrast.report.negatives import ShownReliability, reliability_svg
from mmcontrast.report.panes import Choice, Curve, Pane

_CHOICES = 12


def panes(task: str, evaluation: Evaluation, pictures: Pictures, judge: Judge, *, name: str = "map") -> list[Pane]:
    """The panes of one task of an evaluation; none where a table says all.

    Args:
        task: that the evaluation ran.
        evaluation: with its source.
        pictures: of its data.
        judge: of the model.
        name: of the map in the page.
    """
    details = evaluation.details.get(task, Details())
    if task == "retrieval":
        return [*retrieval_panes(evaluation, pictures, judge), *map_pane(evaluation, pictures, name)]
    if task in ("image_to_image", "text_to_text"):
        return [*same_kind_panes(task, evaluation, pictures), *map_pane(evaluation, pictures, name)]
    if task == "hard_captions":
        return hard_caption_panes(evaluation, pictures, judge)
    if details.classified is not None:
        shown = classified_panes(details.classified, evaluation, pictures, judge.logit_scale)
        return [*shown, *map_pane(evaluation, pictures, name)] if task == "zero_shot" else shown
    if details.confidences:
        return [_calibration_pane(details.confidences)]
    return map_pane(evaluation, pictures, name) if task == "geometry" else []


def run_panes(evaluation: Evaluation, pictures: Pictures, logit_scale: float) -> dict[str, list[Pane]]:
    """What the report of a run shows beside its own galleries: task -> panes. Nothing is judged or embedded anew."""
    found: dict[str, list[Pane]] = {}
    if "retrieval" in evaluation.results:
        found["retrieval"] = retrieval_panes(evaluation, pictures, None)
    if (details := evaluation.details.get("zero_shot")) is not None and details.classified is not None:
        shown = classified_panes(details.classified, evaluation, pictures, logit_scale)
        found["zero_shot"] = [pane for pane in shown if not pane.confusion]  # the report has it
    for last in list(found)[:1]:
        found[last] += map_pane(evaluation, pictures, "map")
    return found


def classified_panes(found: Classified, evaluation: Evaluation, pictures: Pictures, logit_scale: float) -> list[Pane]:
    """Matrix, bars, confused pairs and mistakes; with probabilities where the classes have prompts."""
    zero_shot = evaluation.zero_shot
    sure = None
    if zero_shot is not None and zero_shot.predictions is found.predictions:
        features = evaluation.data.image_features[found.pictures]
        sure = confidence(features, zero_shot.weights, found.predictions, found.labels, logit_scale=logit_scale)
    classification = Classification(
        found.labels.numpy(),
        found.predictions.numpy(),
        found.class_names,
        found.pictures.numpy(),
        None if sure is None else sure.predicted.numpy(),
        None if sure is None else sure.true.numpy(),
    )
    shown = classification_panes(classification, pictures, pictures.where)
    if sure is not None:
        stated = Confidences(sure.predicted, found.predictions == found.labels, found.pictures)
        shown.append(Pane("Reliability", _RELIABILITY, curves=[_curve(stated)]))
    return shown


_RELIABILITY = (
    "Across: the probability that the model states for the class it takes. Up: the share of those pictures that is "
    "right. On the dashed line the numbers can be believed; below it the model is too sure of itself."
)


def _calibration_pane(confidences: dict[str, Confidences]) -> Pane:
    titles = {"ece": "As it is", "ece_calibrated": "With one temperature"}
    return Pane("Reliability", _RELIABILITY, curves=[_curve(c, titles.get(k, k)) for k, c in confidences.items()])


def _curve(found: Confidences, title: str = "") -> Curve:
    curve = reliability(found.probabilities, found.right)
    shown = ShownReliability(curve.believed, curve.observed, curve.counts)
    numbers = reliability_numbers(curve, "Pictures", "right")
    return Curve(reliability_svg(shown, "pictures", "right"), numbers, title)


def hard_caption_panes(evaluation: Evaluation, pictures: Pictures, judge: Judge) -> list[Pane]:
    """Wrong captions that the model took for right, those first that it prefers by most."""
    data = evaluation.data.take(some(len(evaluation.data.positions), JUDGED, 0))
    there = Pictures(data, pictures.source, pictures.room)
    try:
        made, right, scores = hard_choices(data, judge.encode)
    except DataError:  # the captions of this sample are of another kind
        return []
    lost = (~right).nonzero().flatten()
    order = lost[(scores[:, 1] - scores[:, 0])[lost].argsort(descending=True, stable=True)]
    chosen: dict[int, Choice] = {}
    for k in order.tolist():
        hard, (good, bad) = made[k], scores[k].tolist()
        picture = int(data.text_images[hard.place])
        if picture not in chosen:
            chosen[picture] = Choice(there(picture), data.captions[hard.place], hard.text, good, bad, hard.kind)
        if len(chosen) == _CHOICES:
            break
    of = "" if len(data.positions) == len(evaluation.data.positions) else f" of {len(data.positions):,} pictures"
    lead = (
        f"{len(lost):,} of {len(made):,} wrong captions{of} score at least as high as the right one, which is green; "
        "these by most."
    )
    return [Pane("Lost", lead, choices=list(chosen.values()))] if chosen else []
