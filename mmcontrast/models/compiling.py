"""`torch.compile` for the towers, with names of weights as they were."""

from __future__ import annotations

import importlib.util
import os
import shutil

from mmcontrast.errors import ConfigError
from mmcontrast.models.dual_encoder import DualEncoder


def compile_towers(model: DualEncoder) -> None:
    """Compile both towers in place; it happens at their first call, and again for evaluation mode.

    The text tower is compiled for captions of any length at once, for each batch has another one.

    Raises:
        ConfigError: what compiles them is missing on this machine.
    """
    if model.device.type == "cpu":
        names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
        if not any(shutil.which(name) for name in names):
            raise ConfigError(
                f"training.compile needs a C++ compiler ({' or '.join(names)}); install it or turn it off"
            )
    elif importlib.util.find_spec("triton") is None:
        raise ConfigError("training.compile needs the package triton on this device; install it or turn it off")
    model.image_encoder.compile()
    model.text_encoder.compile(dynamic=True)
