"""Zero-shot classification with onnxruntime, tokenizers, numpy and Pillow: example.py PICTURE LABEL LABEL ..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class Encoder:
    """Pictures and captions to features of length 1; suffix "_int8" takes the small models."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.info = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
        files = [folder / f"{name}_model{suffix}.onnx" for name in ("vision", "text")]
        self.vision, self.text = [onnxruntime.InferenceSession(f, providers=["CPUExecutionProvider"]) for f in files]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.info["context_length"])
        self.tokenizer.enable_padding(pad_id=self.info["pad_id"])

    def encode_image(self, pictures: list[Image.Image]) -> np.ndarray:
        """n pictures -> (n, embed_dim) float32."""
        return np.asarray(self.vision.run(None, {"pixel_values": np.stack([self.pixels(p) for p in pictures])})[0])

    def encode_text(self, captions: list[str]) -> np.ndarray:
        """n captions -> (n, embed_dim) float32."""
        rows = self.tokenizer.encode_batch(captions)
        inputs = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
        return np.asarray(self.text.run(None, {name: np.array(v, np.int64) for name, v in inputs.items()})[0])

    def pixels(self, picture: Image.Image) -> np.ndarray:
        """One picture -> (3, image_size, image_size) float32."""
        size, how = self.info["image_size"], Image.Resampling[self.info["interpolation"].upper()]
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I"):  # Pillow would clip 16-bit greys to white
            grey = np.asarray(picture).astype(np.int64).clip(0, 65535)
            wide = picture.mode != "I" or grey.max() > 255
            picture = Image.fromarray((grey >> 8 if wide else grey).astype(np.uint8))
        if picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")
        picture = picture.convert("RGB")
        width = height = size
        if self.info["resize"] == "shortest":
            width, height = (int(size * side / min(picture.size)) for side in picture.size)
        down = self.info["crop_rounding"] == "down"
        left, top = ((side - size) // 2 if down else round((side - size) / 2) for side in (width, height))
        picture = picture.resize((width, height), how).crop((left, top, left + size, top + size))
        mean, std = (255 * np.array(self.info[name], np.float32) for name in ("mean", "std"))
        return ((np.asarray(picture, np.float32) - mean) / std).transpose(2, 0, 1)


if __name__ == "__main__":
    encoder = Encoder(Path(__file__).parent)
    image, labels = encoder.encode_image([Image.open(sys.argv[1])]), encoder.encode_text(sys.argv[2:])
    logits = encoder.info["logit_scale"] * (image @ labels.T)[0]
    shares = np.exp(logits - logits.max())
    for label, share in zip(sys.argv[2:], shares / shares.sum(), strict=True):
        print(f"{share:.3f}  {label}")
