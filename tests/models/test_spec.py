from __future__ import annotations

import json

import pytest
from model_fakes import tiny_spec

from mmcontrast.errors import ModelError
from mmcontrast.models import ImageTowerSpec, ModelSpec, TextTowerSpec


def test_a_spec_survives_json() -> None:
    spec = tiny_spec(logit_bias=-10.0, logit_scale_learnable=False)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_unknown_and_missing_keys_are_named() -> None:
    values = tiny_spec().to_dict()
    with pytest.raises(ModelError, match=r"model.image has unknown keys imagesize; known are .*image_size"):
        ModelSpec.from_dict({**values, "image": {**values["image"], "imagesize": 3}})
    with pytest.raises(ModelError, match="incomplete model description: 'text'"):
        ModelSpec.from_dict({k: v for k, v in values.items() if k != "text"})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageTowerSpec("torchvision"), r"model.image.library is 'torchvision'; choose one of timm"),  # type: ignore[arg-type]
        (lambda: TextTowerSpec("open_clip", projection="deep"), r"model.text.projection is 'deep'"),  # type: ignore[arg-type]
        (lambda: ImageTowerSpec("timm", dropout=1.0), r"model.image.dropout is 1.0; it must be in \[0, 1\)"),
        (lambda: TextTowerSpec("open_clip", context_length=2), "context_length is 2; it must be at least 3"),
        (lambda: tiny_spec(logit_scale=200.0), r"logit_scale is 200.0; it must lie between 1 and .*\(100.0\)"),
        (lambda: tiny_spec(embed_dim=0), "embed_dim is 0"),
    ],
)
def test_bad_values_are_refused(build, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=message):
        build()
