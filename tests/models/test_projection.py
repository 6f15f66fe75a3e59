from __future__ import annotations

import pytest
import torch

from mmcontrast.errors import ModelError
from mmcontrast.models.projection import build_projection


@pytest.mark.parametrize(("kind", "out"), [("linear", 5), ("mlp", 5), ("none", 8)])
def test_shapes(kind: str, out: int) -> None:
    head = build_projection(kind, 8, out, 0.0, "image")  # type: ignore[arg-type]
    assert head(torch.randn(3, 8)).shape == (3, out)


def test_an_mlp_is_linear_gelu_linear() -> None:
    head = build_projection("mlp", 8, 5, 0.0, "text")
    x = torch.randn(3, 8)
    hidden, linear = head.get_submodule("hidden"), head.get_submodule("linear")
    torch.testing.assert_close(head(x), torch.nn.functional.gelu(x @ hidden.weight.T + hidden.bias) @ linear.weight.T)


def test_dropout_acts_on_the_input_and_only_in_training() -> None:
    head = build_projection("none", 1000, 1000, 0.5, "image")
    x = torch.ones(2, 1000)
    dropped = (head(x) == 0).float().mean()
    assert 0.4 < dropped < 0.6
    assert torch.equal(head.eval()(x), x)


def test_no_projection_needs_equal_widths() -> None:
    with pytest.raises(ModelError, match=r"model.text.projection is none, but the tower gives 8 values .* is 5"):
        build_projection("none", 8, 5, 0.0, "text")
