"""The code on a card runs as it stands, on what was really exported, in a fresh process without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from mmcontrast import build
from mmcontrast.data import open_source
from mmcontrast.errors import ModelError
from mmcontrast.export.card_facts import CardAnswers
from mmcontrast.export.card_usage import name_on_hub, snippet, usage
from mmcontrast.export.formats import FORMATS, Format
from mmcontrast.models import (
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    build_dual_encoder,
    train_sentencepiece,
)
from mmcontrast.preprocess import decode_image

LIBRARIES = {"sentence_transformers": "sentence_transformers", "onnx": "onnxruntime"}
OURS = cast(Format, "mmcontrast")
LABELS = ["a red square", "two green circles", "a dog"]


def available(name: Format) -> bool:
    """Whether the format's writer and library are here."""
    found = importlib.util.find_spec(f"mmcontrast.export.to_{name}") is not None
    return found and importlib.util.find_spec(LIBRARIES.get(name, "torch")) is not None


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    """Towers that every format can express."""
    things = ("square", "circle", "dog", "green circles", "car")
    corpus = [
        f"{number} {colour} {thing}" for number in ("a", "two") for colour in ("red", "green") for thing in things
    ]
    spec = ModelSpec(
        embed_dim=12,
        image=ImageTowerSpec(
            library="open_clip", image_size=32, kwargs={"layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
        ),
        text=TextTowerSpec(library="open_clip", context_length=16, kwargs={"width": 16, "heads": 2, "layers": 2}),
    )
    return build_dual_encoder(spec, SentencePieceTokenizer(train_sentencepiece(corpus, 300), 16), seed=0).eval()


@pytest.fixture(scope="module")
def exported(model: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in all formats that are here, with its card and a picture.jpg."""
    here = [name for name in FORMATS if available(name)]
    if not here:
        pytest.skip("no format can be written here")
    folder = tmp_path_factory.mktemp("card") / "export"
    build.export_model(model, folder, here, check=False)
    decode_image(open_source("synthetic://scenes", rows=1).image(0)).save(folder / "picture.jpg")
    return folder


def blocks(card: str) -> list[str]:
    """The Python code of a card."""
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def run(code: str, folder: Path) -> str:
    """What the code prints, run in `folder`."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **quiet, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FORMATS)
def test_code_on_the_card_runs_and_chooses_as_we_do(name: Format, model: DualEncoder, exported: Path) -> None:
    if not available(name):
        pytest.skip(f"the writer or the library of {name} is not here")
    card = (exported / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in blocks(card) if block == snippet(name)]
    printed = [line.split("  ", 1) for line in run(code, exported).strip().splitlines()]
    found = {label: float(score) for score, label in printed}
    with Image.open(exported / "picture.jpg") as picture:
        cosines = (model.encode_image(picture) @ model.encode_text(LABELS).T)[0]
    assert cosines.sort().values.diff().min() > 0.002  # the three decimals that are printed can tell
    assert sorted(found, key=lambda label: found[label]) == [LABELS[i] for i in cosines.argsort()]


def test_every_format_has_its_code() -> None:
    assert list(usage(FORMATS)) == list(FORMATS)
    assert usage(["unheard-of"]) == {}


@pytest.mark.parametrize("name", ["transformers", "open_clip", "sentence_transformers", "onnx", "mmcontrast"])
def test_on_the_hub_the_code_names_the_repository(name: str) -> None:
    card = f"text\n\n```python\n{snippet(name)}```\n\nmore"
    published = name_on_hub(card, "owner/my-model")
    (code,) = blocks(published)
    compile(code, name, "exec")
    assert "owner/my-model" in code
    assert '"."' not in code
    assert "local-dir" not in code
    assert published.startswith("text\n\n")
    assert published.endswith("\n\nmore")
    assert name_on_hub(published, "owner/my-model") == published


def test_bad_answers_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--language 'xx-long-xx'"):
        build.export_model("no/such-model", tmp_path / "out", card=CardAnswers(languages=["xx-long-xx"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not available(OURS), reason="the writer of mmcontrast is not here")
def test_an_export_of_a_run_shows_scenes_and_hides_other_pictures(tiny_run: Path, tmp_path: Path) -> None:
    def assets(check: bool, **answers: bool) -> list[str]:
        card = CardAnswers(name="named", **answers)
        build.export_model(tiny_run / "model", tmp_path / "out", OURS, check=check, card=card)
        text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
        assert "# named" in text
        assert "| steps | 18 |" in text
        assert ("they differ by" in text) == check
        return sorted(path.name for path in (tmp_path / "out").glob("assets/*"))

    assert assets(check=True) == [f"example-{number}.jpg" for number in range(1, 7)]  # scenes are nobody's pictures
    assert assets(check=False, pictures=False) == []
