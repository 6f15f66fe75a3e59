"""A pushed model is loaded by its name, by every library whose format it was pushed in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_clients import run
from hub_server import Hub, running_hub
from PIL import Image

from mmcontrast.models import (
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    build_dual_encoder,
    train_sentencepiece,
)

CAPTIONS = ["a red dog on the grass", "two green cars"]
_LOAD = """
import sys
import numpy as np
from huggingface_hub import snapshot_download
from PIL import Image
from mmcontrast import DualEncoder
from mmcontrast.errors import ModelError

picture, result, captions = Image.open(sys.argv[1]), sys.argv[2], sys.argv[3:]
features = {}
def note(name, model):
    features[name] = np.concatenate([model.encode_image(picture), model.encode_text(captions)])
model = DualEncoder.from_pretrained("org/tiny")
note("by name", model)
note("snapshot", DualEncoder.from_pretrained(snapshot_download("org/tiny")))
commit = model.push_to_hub("org/again", formats="mmcontrast", check=False)
note("pushed again", DualEncoder.from_pretrained("org/again", revision=commit))
model.logit_scale.data += 1
try:
    model.push_to_hub("org/again", formats="mmcontrast", check=False)
except ModelError as error:
    print(error)
np.savez(result, **features)
"""


@pytest.fixture(scope="module")
def own() -> DualEncoder:
    words = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("dog", "car", "tree")]
    kwargs = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    spec = ModelSpec(
        embed_dim=12,
        image=ImageTowerSpec(library="open_clip", image_size=32, kwargs=kwargs),
        text=TextTowerSpec(library="open_clip", context_length=16, kwargs={"width": 16, "heads": 2, "layers": 1}),
    )
    tokenizer = SentencePieceTokenizer(train_sentencepiece([*CAPTIONS, *words], 300), 16)
    return build_dual_encoder(spec, tokenizer, seed=0).eval()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


def test_by_command_and_by_method(hub: Hub, own: DualEncoder, tmp_path: Path) -> None:
    own.save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")
    words = ["-m", "mmcontrast", "export", model, "--format", "mmcontrast", "--no-check", "--push-to-hub", "org/tiny"]
    listed = run(hub, tmp_path, *words, "--dry-run", token=None)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.startswith("would push to org/tiny (main); the repository is new\n")
    assert "mmcontrast/model.safetensors" in listed.stdout
    assert not hub.repos
    done = run(hub, tmp_path, *words, "--private", "--output", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    assert f"published: {hub.url}/org/tiny  commit {hub.repos['org/tiny'].branches['main']}\n" in done.stdout
    kept = {path.relative_to(tmp_path / "kept").as_posix() for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert {*hub.repos["org/tiny"].files()} == {*kept, ".gitattributes"}

    Image.linear_gradient("L").save(tmp_path / "picture.png")
    loaded = run(hub, tmp_path, "-c", _LOAD, str(tmp_path / "picture.png"), str(tmp_path / "found.npz"), *CAPTIONS)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.startswith("org/again holds another model (")
    expected = np.concatenate([own.encode_image(Image.linear_gradient("L")), own.encode_text(CAPTIONS)])
    with np.load(tmp_path / "found.npz") as found:
        assert set(found.files) == {"by name", "snapshot", "pushed again"}
        for features in found.values():
            np.testing.assert_allclose(features, expected, atol=1e-6)
    assert json.loads(hub.repos["org/again"].files()["mmcontrast_export.json"])["formats"] == ["mmcontrast"]
