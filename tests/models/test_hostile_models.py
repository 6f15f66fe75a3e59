"""Model folders that lie: refused in one line, without running, writing or filling anything."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fakes import CONTEXT, tiny_model
from safetensors.torch import load_file, save_file
from tokenizer_fakes import bert_folder

from mmcontrast.errors import ModelError
from mmcontrast.models import (
    ClipTokenizer,
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    build_dual_encoder,
    load_tokenizer,
)


@pytest.fixture(scope="module")
def made(vocabulary: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    tiny_model(SentencePieceTokenizer(vocabulary, CONTEXT)).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(ModelError, match=r"^[^\n]+$") as caught:
        DualEncoder.from_pretrained(folder)
    return str(caught.value)


def header(values: dict[str, Any] | bytes, size: int | None = None, data: bytes = b"") -> bytes:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        header({}, size=2**63),
        header({}, size=2**40),
        header({"logit_scale": {**ONE, "shape": [2**40]}}, data=bytes(4)),
        header({"logit_scale": {**ONE, "shape": [2**62, 4]}}, data=bytes(4)),
        header({"logit_scale": {**ONE, "data_offsets": [0, 2**50]}}, data=bytes(4)),
        header({"logit_scale": {**ONE, "data_offsets": [4, 0]}}, data=bytes(4)),
        header({"logit_scale": {**ONE, "data_offsets": [-4, 0]}}, data=bytes(4)),
        header({"logit_scale": {**ONE, "dtype": "PICKLE"}}, data=bytes(4)),
        header({"logit_scale": ONE, "logit_bias": ONE}, data=bytes(4)),
        header(b"[" * 100_000),
        header(b'{"a": ' * 50_000),
        header(b"\xff\xfe"),
        header({"logit_scale": ONE}, data=bytes(400)),
        b"",
        pickle.dumps({"logit_scale": 1}),
    ],
    ids=range(15),
)
def test_safetensors_with_lying_headers(data: bytes, saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(data)
    assert "model.safetensors" in refused(saved)


def test_weights_of_another_type(saved: Path) -> None:
    """Whole numbers or complex ones in place of weights would be converted without a word."""
    path = saved / "model.safetensors"
    weights = load_file(path)
    for kind, name in ((torch.int64, "I64"), (torch.complex64, "C64"), (torch.bool, "BOOL")):
        save_file({**weights, "logit_scale": torch.ones(1, dtype=kind)}, path)
        assert f"logit_scale holds {name} where the model has floating-point numbers" in refused(saved)


def changed(folder: Path, **values: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    for dotted, value in values.items():
        section, *keys = dotted.split("__")
        inner = config
        for key in [section, *keys][:-1]:
            inner = inner[key]
        inner[[section, *keys][-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "values",
    [
        {"spec": []},
        {"spec": "x"},
        {"spec": {"embed_dim": 8}},
        {"spec__embed_dim": "8"},
        {"spec__embed_dim": 8.5},
        {"spec__embed_dim": True},
        {"spec__image": 5},
        {"spec__image": []},
        {"spec__image__image_size": "32"},
        {"spec__image__kwargs": [1]},
        {"spec__image__kwargs": {"evil": 1}},
        {"spec__image__name": ["x"]},
        {"spec__image__name": "../../x"},
        {"spec__image__lora": "x"},
        {"spec__image__lora": {"rank": "x"}},
        {"spec__text__context_length": 10**12},
        {"spec__text__library": {}},
        {"spec__logit_scale": "x"},
        {"spec__logit_scale": float("nan")},
        {"preprocess": None},
        {"preprocess__image_size": 0},
        {"preprocess__image_size": 2**31},
        {"preprocess__image_size": "32"},
        {"preprocess__mean": [0.5]},
        {"preprocess__mean": "abc"},
        {"preprocess__std": [0.5, None, 0.5]},
        {"preprocess__resize": "explode"},
        {"preprocess__interpolation": "nearest"},
        {"preprocess__unknown": 1},
        {"templates": "x"},
        {"templates": [1]},
        {"extra": "xyz"},
        {"extra": [1]},
    ],
    ids=str,
)
def test_configs_with_other_values(values: dict[str, Any], saved: Path) -> None:
    refused(changed(saved, **values))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "[]", "null", "5", '{"format_version": {}}', "\x00"], ids=range(7)
)
def test_configs_that_are_none(text: str, saved: Path) -> None:
    (saved / "config.json").write_text(text)
    assert "config.json" in refused(saved)


@pytest.mark.parametrize("size", [2**40, 10**30])
def test_sizes_that_no_memory_holds(size: int, saved: Path) -> None:
    refused(changed(saved, spec__embed_dim=size))


class Evil:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt", "model.pkl"])
def test_pickles_are_not_opened(name: str, saved: Path, tmp_path: Path) -> None:
    torch.save({"x": Evil(tmp_path / "ran")}, saved / name)
    (saved / "model.safetensors").unlink()
    assert f"{name} is a pickle, which could run code: it is not loaded" in refused(saved)
    shutil.copy(saved / name, saved / "model.safetensors")  # renamed it is no better
    refused(saved)
    assert not (tmp_path / "ran").exists()


REMOTE = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}


def with_remote_code(folder: Path, ran: Path) -> Path:
    classes = "".join(f"class {name}: pass\n" for name in ("Config", "Model", "Tokenizer"))
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n{classes}")
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps({**values, "auto_map": REMOTE, "model_type": "evil"}))
    return folder


def test_folders_that_ask_for_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ran = tmp_path / "ran"
    folder = with_remote_code(bert_folder(tmp_path / "remote"), ran)
    image = ImageTowerSpec("transformers", str(folder), image_size=32)
    text = TextTowerSpec("transformers", str(folder), context_length=24)
    good_image = ImageTowerSpec("timm", "test_vit", image_size=32)
    good_text = TextTowerSpec("bag_of_words", context_length=24, kwargs={"width": 8})
    for spec in (ModelSpec(8, image, good_text), ModelSpec(8, good_image, text)):
        with pytest.raises(ModelError, match=r"no transformers config in .*"):
            build_dual_encoder(spec, ClipTokenizer(24), seed=0)
    (folder / "mmcontrast_tokenizer.json").write_text('{"kind": "transformers", "context_length": 24}')
    load_tokenizer(folder)  # a vocabulary is data: it is read without the code beside it
    assert not ran.exists()


@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, "[]", '{"kind": "x"}', '{"kind": "clip", "context_length": 1e99}', '{"kind": []}',
     '{"kind": "clip", "context_length": -5}', '{"kind": "clip", "context_length": Infinity}', '{"kind": "os.system"}'],
)  # fmt: skip
def test_tokenizers_that_are_none(text: str, saved: Path) -> None:
    (saved / "tokenizer" / "mmcontrast_tokenizer.json").write_text(text)
    assert "mmcontrast_tokenizer.json is damaged" in refused(saved)


def test_archives_in_place_of_weights(saved: Path) -> None:
    with zipfile.ZipFile(saved / "model.safetensors", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50 << 20))
    refused(saved)
