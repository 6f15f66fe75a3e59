"""Models of other libraries by their names on the Hub, over HTTP: only what is needed is downloaded, and no pickle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from foreign_fakes import CAPTIONS, hf_clip_folder, open_clip_folder, pictures
from hub_clients import run
from hub_server import running_hub

from mmcontrast.models import DualEncoder

_LOAD = """
import json, sys
import numpy as np
from PIL import Image
from mmcontrast import DualEncoder
from mmcontrast.errors import ModelError

names, captions, picture, result = json.loads(sys.argv[1])
features, errors = {}, {}
for name in names:
    try:
        model = DualEncoder.from_pretrained(name)
        features[name] = np.concatenate([model.encode_image(Image.open(picture)), model.encode_text(captions)])
    except ModelError as error:
        errors[name] = str(error)
np.savez(result, **features)
print(json.dumps(errors))
"""


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_by_name(tmp_path: Path) -> None:
    folders = {
        "org/open-clip": open_clip_folder(tmp_path / "open_clip"),
        "org/transformers": hf_clip_folder(tmp_path / "clip", max_shard_size="20KB"),
        "org/sentences": tmp_path / "sentences",
    }
    hf_clip_folder(tmp_path / "sentences" / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (tmp_path / "sentences" / "modules.json").write_text(json.dumps([module]))
    mixed = {**_files(folders["org/transformers"]), **_files(folders["org/open-clip"])}
    pickled = {name: data for name, data in mixed.items() if name != "open_clip_model.safetensors"}
    picture = tmp_path / "picture.png"
    pictures()[0].save(picture)
    home = tmp_path / "home"
    with running_hub() as hub:
        for name, folder in folders.items():
            hub.make(name, {**_files(folder), "pytorch_model.bin": b"no", "onnx/model.onnx": b"large"})
        hub.make("org/pickled", {**pickled, "open_clip_pytorch_model.bin": b"a pickle"})
        hub.make("org/only-pickled", {"config.json": b'{"model_type": "clip"}', "pytorch_model.bin": b"a pickle"})
        names = [*folders, "hf-hub:org/open-clip", "org/pickled", "org/only-pickled", "hf-hub:org/absent"]
        words = json.dumps([names, CAPTIONS, str(picture), str(tmp_path / "found.npz")])
        done = run(hub, home, "-c", _LOAD, words)
        assert done.returncode == 0, done.stderr
        assert hub.count(r"resolve/.*\.(bin|onnx)") == 0
    errors = json.loads(done.stdout.splitlines()[-1])
    assert set(errors) == {"org/only-pickled", "hf-hub:org/absent"}
    assert "pytorch_model.bin is a pickle, which could run code: it is not loaded" in errors["org/only-pickled"]
    assert "neither a folder here nor to be had from the Hub" in errors["hf-hub:org/absent"]
    folders |= {"hf-hub:org/open-clip": folders["org/open-clip"], "org/pickled": folders["org/transformers"]}
    with np.load(tmp_path / "found.npz") as found:
        assert set(found.files) == set(folders)
        for name, folder in folders.items():
            model = DualEncoder.from_pretrained(folder)
            expected = np.concatenate([model.encode_image(pictures()[:1]), model.encode_text(CAPTIONS)])
            np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_a_local_folder_named_like_a_repository_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip_folder(tmp_path / "org" / "clip")
    monkeypatch.chdir(tmp_path)
    assert DualEncoder.from_pretrained("org/clip").embed_dim == 12
