from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_fakes import CAPTIONS, hf_clip_folder, hf_siglip_folder, pictures

from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder


def _modules(folder: Path, *modules: tuple[str, str]) -> None:
    values = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(values))


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """The layout of clip-ViT-B-32: a CLIP model in a module folder."""
    hf_clip_folder(tmp_path / "clip" / "0_CLIPModel")
    _modules(tmp_path / "clip", ("0_CLIPModel", "sentence_transformers.models.CLIPModel"))
    return tmp_path / "clip"


def _assert_same(folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    theirs = library.SentenceTransformer(str(folder), device="cpu", processor_kwargs={"backend": "pil"})
    model = DualEncoder.from_pretrained(folder)
    text = torch.from_numpy(theirs.encode(CAPTIONS, normalize_embeddings=True))
    image = torch.from_numpy(theirs.encode(pictures(), normalize_embeddings=True))
    torch.testing.assert_close(model.encode_text(CAPTIONS), text, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_image(pictures()), image, atol=1e-5, rtol=0)


def test_the_old_layout(legacy: Path) -> None:
    _assert_same(legacy)


def test_the_library_saves_it_anew(legacy: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    model = library.SentenceTransformer(modules=[library.models.Transformer(str(legacy / "0_CLIPModel"))])
    model.append(library.models.Normalize())
    model.save(str(tmp_path / "new"))
    assert (tmp_path / "new" / "modules.json").is_file()
    _assert_same(tmp_path / "new")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("sentence_transformers.models.Dense", "modules CLIPModel, Dense are not supported"),
        ("custom_st.Normalize", "modules CLIPModel, Normalize are not supported"),
    ],
)
def test_modules_that_change_features(legacy: Path, module: str, message: str) -> None:
    _modules(legacy, ("0_CLIPModel", "sentence_transformers.models.CLIPModel"), ("1_More", module))
    with pytest.raises(ModelError, match=message):
        DualEncoder.from_pretrained(legacy)


def test_modules_elsewhere_and_damage(legacy: Path) -> None:
    _modules(legacy, ("../other", "sentence_transformers.models.CLIPModel"))
    with pytest.raises(ModelError, match="names no module, or one outside of the folder"):
        DualEncoder.from_pretrained(legacy)
    (legacy / "modules.json").write_text("[{}]")
    with pytest.raises(ModelError, match="is damaged: KeyError"):
        DualEncoder.from_pretrained(legacy)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name changes the feat"),
        ("config_sentence_transformers.json", {"truncate_dim": 4}, "truncate_dim changes the features"),
        ("0_CLIPModel/sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case may change the features"),
        (
            "0_CLIPModel/sentence_bert_config.json",
            {"processing_kwargs": {"image": {"size": 3}}},
            "processing_kwargs.image may change the features",
        ),
        (
            "0_CLIPModel/sentence_bert_config.json",
            {"modality_config": {"text": {"method": "forward"}}},
            "text features are not made by get_text_features",
        ),
    ],
)
def test_settings_that_change_features(legacy: Path, file: str, values: dict[str, Any], message: str) -> None:
    (legacy / file).write_text(json.dumps(values))
    with pytest.raises(ModelError, match=message) as caught:
        DualEncoder.from_pretrained(legacy)
    assert "\n" not in str(caught.value)


def test_siglip_needs_its_padding(tmp_path: Path) -> None:
    folder = hf_siglip_folder(tmp_path / "siglip")
    _modules(folder, ("", "sentence_transformers.models.Transformer"))
    methods = {kind: f"get_{kind}_features" for kind in ("text", "image")}
    modality = {kind: {"method": name, "method_output_name": "pooler_output"} for kind, name in methods.items()}
    settings = {"modality_config": modality, "module_output_name": "sentence_embedding"}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"set processing_kwargs.text.padding to max_length"):
        DualEncoder.from_pretrained(folder)
    settings["processing_kwargs"] = {"text": {"padding": "max_length", "max_length": 12}}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    _assert_same(folder)
