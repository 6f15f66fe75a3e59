"""How each library loads the export: code that is run as it stands by our tests.

The code reads `picture.jpg` and the model in the current folder; on the Hub the model's name stands in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

_TITLES = {
    "transformers": "transformers",
    "open_clip": "open_clip",
    "sentence_transformers": "sentence-transformers",
    "onnx": "ONNX: onnxruntime, tokenizers, numpy and Pillow alone",
    "mmcontrast": "mmcontrast",
}
_LABELS = '["a red square", "two green circles", "a dog"]'
_PREFIXES = {"open_clip": ("hf-hub:", "local-dir:")}
_CODE = {
    "transformers": """\
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model="{model}")
for found in classify("picture.jpg", candidate_labels={labels}, hypothesis_template="{{}}"):
    print(f"{{found['score']:.3f}}  {{found['label']}}")
""",
    "open_clip": """\
import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms("{model}", require_pretrained=True)
tokenizer = open_clip.get_tokenizer("{model}")
model.eval()
labels = {labels}
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open("picture.jpg")).unsqueeze(0), normalize=True)
    text = model.encode_text(tokenizer(labels), normalize=True)
    shares = (model.logit_scale.exp() * image @ text.T).softmax(dim=-1)[0]
for share, label in zip(shares.tolist(), labels):
    print(f"{{share:.3f}}  {{label}}")
""",
    "sentence_transformers": """\
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{model}")
labels = {labels}
image, text = model.encode([Image.open("picture.jpg")]), model.encode(labels)
for cosine, label in zip(model.similarity(image, text)[0].tolist(), labels):
    print(f"{{cosine:.3f}}  {{label}}")
""",
    "onnx": """\
import sys
from pathlib import Path

from PIL import Image
{download}
sys.path.insert(0, str(folder / "onnx"))
from example import Encoder

encoder = Encoder(folder / "onnx")
labels = {labels}
cosines = encoder.encode_image([Image.open("picture.jpg")]) @ encoder.encode_text(labels).T
for cosine, label in zip(cosines[0].tolist(), labels):
    print(f"{{cosine:.3f}}  {{label}}")
""",
    "mmcontrast": """\
from mmcontrast import DualEncoder
from PIL import Image

model = DualEncoder.from_pretrained("{model}")
labels = {labels}
cosines = model.encode_image(Image.open("picture.jpg")) @ model.encode_text(labels).T
for cosine, label in zip(cosines[0].tolist(), labels):
    print(f"{{cosine:.3f}}  {{label}}")
""",
}


def usage(formats: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Format -> (title, Python code) for those of an export, run in its folder; unknown formats have none."""
    return {name: (_TITLES[name], snippet(name)) for name in formats if name in _CODE}


def snippet(name: str, repo_id: str | None = None) -> str:
    """Python code for one format; the model is in the current folder, or `repo_id` on the Hub."""
    on_hub, here = _PREFIXES.get(name, ("", ""))
    model = f"{here}." if repo_id is None else f"{on_hub}{repo_id}"
    download = '\nfolder = Path(".")  # of the export'
    if repo_id is not None:
        download = f'from huggingface_hub import snapshot_download\n\nfolder = Path(snapshot_download("{repo_id}"))'
    return _CODE[name].format(model=model, labels=_LABELS, download=download)


def name_on_hub(card: str, repo_id: str) -> str:
    """A card whose code loads the model by its name on the Hub instead of from the current folder."""
    for name in _CODE:
        card = card.replace(f"```python\n{snippet(name)}```", f"```python\n{snippet(name, repo_id)}```")
    return card
