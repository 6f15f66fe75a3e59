from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_config

from mmcontrast.build import parts
from mmcontrast.build.validation import Validation
from mmcontrast.data import loader
from mmcontrast.errors import ConfigError


def test_only_the_first_evaluation_decodes_and_all_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    config = tiny_config(tmp_path / "run")
    assert config.data.validation is not None
    source = parts.open_pairs(config, config.data.validation)
    model = parts.make_model(config, source, tmp_path / "tokenizer")
    decoded: list[int] = []
    original = loader.decode_image
    monkeypatch.setattr(loader, "decode_image", lambda *given: decoded.append(1) or original(*given))
    found = {}
    for megabytes, expected in ((0, 80), (1, 40)):
        decoded.clear()
        validation = Validation(source, tiny_config(tmp_path / "run", f"evaluation.keep_pictures_mb={megabytes}"))
        first, second = validation.evaluate(model), validation.evaluate(model)
        assert len(decoded) == expected
        assert first.results == second.results
        assert torch.equal(first.data.image_features, second.data.image_features)
        found[megabytes] = second
    assert found[0].results == found[1].results
    assert torch.equal(found[0].data.image_features, found[1].data.image_features)


def test_memory_for_pictures_cannot_be_negative(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation.keep_pictures_mb: .*0"):
        tiny_config(tmp_path / "run", "evaluation.keep_pictures_mb=-1")
