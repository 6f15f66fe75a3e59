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

FORMATS = ("mmcontrast", "transformers", "open_clip", "sentence_transformers")
CAPTIONS = ["a red dog on the grass", "two green cars"]
_LOAD = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import open_clip
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor

import mmcontrast
from mmcontrast.errors import ModelError

picture, result, captions = Image.open(sys.argv[1]).convert("RGB"), sys.argv[2], sys.argv[3:]
features = {}
def note(name, image, text):
    both = torch.cat([torch.as_tensor(image), torch.as_tensor(text)])
    features[name] = torch.nn.functional.normalize(both, dim=-1).numpy()

torch.set_grad_enabled(False)
model = mmcontrast.DualEncoder.from_pretrained("org/tiny")
note("by name", model.encode_image(picture), model.encode_text(captions))
found = mmcontrast.DualEncoder.from_pretrained(snapshot_download("org/tiny"))
note("snapshot", found.encode_image(picture), found.encode_text(captions))

given = AutoProcessor.from_pretrained("org/tiny")(images=[picture], text=captions, padding=True, return_tensors="pt")
found = AutoModel.from_pretrained("org/tiny").eval()(**given)
note("transformers", found.image_embeds, found.text_embeds)

found, preprocess = open_clip.create_model_from_pretrained("hf-hub:org/tiny")
ids = open_clip.get_tokenizer("hf-hub:org/tiny")(captions)
note("open_clip", found.eval().encode_image(preprocess(picture)[None]), found.encode_text(ids))

found = SentenceTransformer("org/tiny", device="cpu")
note("sentence_transformers", found.encode([picture]), found.encode(captions))

only = {"formats": "mmcontrast", "check": False}
planned = mmcontrast.push_to_hub(model, "org/again", dry_run=True, **only)
print(planned.commit, planned.creates)
commit = model.push_to_hub("org/again", **only)
found = mmcontrast.DualEncoder.from_pretrained("org/again", revision=commit)
note("pushed again", found.encode_image(picture), found.encode_text(captions))
model.logit_scale.data += 1
try:
    model.push_to_hub("org/again", **only)
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
        text=TextTowerSpec(library="open_clip", context_length=40, kwargs={"width": 16, "heads": 2, "layers": 1}),
    )
    tokenizer = SentencePieceTokenizer(train_sentencepiece([*CAPTIONS, *words], 283), 40)
    return build_dual_encoder(spec, tokenizer, seed=0).eval()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


@pytest.fixture(scope="module")
def exported(hub: Hub, own: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, pushed by the command."""
    folder = tmp_path_factory.mktemp("model")
    own.save_pretrained(folder / "model")
    formats = [word for name in FORMATS for word in ("--format", name)]
    words = ["-m", "mmcontrast", "export", str(folder / "model"), "--output", str(folder / "kept"), *formats]
    done = run(hub, folder, *words, "--no-check", "--push-to-hub", "org/tiny", "--private")
    assert done.returncode == 0, done.stderr
    assert f"published: {hub.url}/org/tiny  commit {hub.repos['org/tiny'].branches['main']}\n" in done.stdout
    return folder / "kept"


def test_what_the_command_publishes(hub: Hub, exported: Path) -> None:
    kept = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    published = hub.repos["org/tiny"].files()
    assert {*published} == {*kept, ".gitattributes"}
    assert hub.repos["org/tiny"].private
    assert b'"org/tiny"' in published["open_clip_config.json"]  # where its tokenizer is then
    assert '"org/tiny"' not in (exported / "open_clip_config.json").read_text()


def test_every_library_loads_it_by_name(hub: Hub, own: DualEncoder, exported: Path, tmp_path: Path) -> None:
    assert exported.is_dir()
    Image.linear_gradient("L").save(tmp_path / "picture.png")
    words = [str(tmp_path / "picture.png"), str(tmp_path / "found.npz"), *CAPTIONS]
    loaded = run(hub, tmp_path, "-c", _LOAD, *words)
    assert loaded.returncode == 0, loaded.stderr
    planned, refused = loaded.stdout.splitlines()
    assert planned == "None repository"
    assert refused.startswith("org/again holds another model (")
    assert json.loads(hub.repos["org/again"].files()["mmcontrast_export.json"])["formats"] == ["mmcontrast"]
    expected = np.concatenate([own.encode_image(Image.linear_gradient("L")), own.encode_text(CAPTIONS)])
    with np.load(tmp_path / "found.npz") as found:
        assert set(found.files) == {*FORMATS[1:], "by name", "snapshot", "pushed again"}
        for name, features in found.items():
            np.testing.assert_allclose(features, expected, atol=1e-5, err_msg=name)
