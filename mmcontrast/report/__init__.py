"""One self-contained HTML page about a run: plain values in, a file out."""

from mmcontrast.report.gallery import GalleryPair, retrieval_examples
from mmcontrast.report.html import render_negatives, render_report, write_negatives, write_report
from mmcontrast.report.inputs import ReportInputs, RetrievalExample, RetrievedItem
from mmcontrast.report.negatives import NegativesView

__all__ = [
    "GalleryPair",
    "NegativesView",
    "ReportInputs",
    "RetrievalExample",
    "RetrievedItem",
    "render_negatives",
    "render_report",
    "retrieval_examples",
    "write_negatives",
    "write_report",
]
