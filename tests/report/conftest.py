from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from report_samples import HOSTILE, make_history

from mmcontrast.report import ReportInputs, retrieval_examples
from mmcontrast.types import BadRow


@pytest.fixture
def full_inputs() -> ReportInputs:
    """Every part of a report, with captions that try to break out of it."""
    features = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    captions = [f"{HOSTILE} number {i}" for i in range(6)]
    pictures = [Image.new("RGB", (40, 30), (40 * i, 90, 200)) for i in range(6)]
    pair = retrieval_examples(features, features.flip(0), range(6), pictures.__getitem__, captions, count=3)
    return ReportInputs(
        run_name=f"run {HOSTILE}",
        config={"output": "runs/x", "model": {"embed_dim": 8, "image": {"name": HOSTILE}}, "flag": True, "none": None},
        history=make_history(),
        results={
            "retrieval": {"text_to_image_recall@1": 0.25, "image_to_text_recall@1": math.nan, "map@r": 0.4},
            "zero_shot": {"acc1": 0.5, "acc5": None},
        },
        chance={"retrieval": {"text_to_image_recall@1": 0.01}, "zero_shot": {"acc1": 0.125}},
        facts={"data": HOSTILE},
        image_queries=pair.image_queries,
        text_queries=pair.text_queries,
        confusion=(np.array([[8, 2, 0], [1, 4, 0], [0, 0, 0]]), ["cat", HOSTILE, "never seen"]),
        bad_rows=[BadRow(HOSTILE, i, "empty caption") for i in range(40)],
        negatives={"rule": HOSTILE, "masked": 0.0125},
        notes=[HOSTILE],
    )
