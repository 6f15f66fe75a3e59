"""One self-contained HTML page about a run: plain values in, a file out."""

from mmcontrast.report.gallery import GalleryPair, retrieval_examples
from mmcontrast.report.html import render_report, write_report
from mmcontrast.report.inputs import ReportInputs, RetrievalExample, RetrievedItem

__all__ = [
    "GalleryPair",
    "ReportInputs",
    "RetrievalExample",
    "RetrievedItem",
    "render_report",
    "retrieval_examples",
    "write_report",
]
