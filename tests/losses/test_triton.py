"""The Triton kernels: right in the interpreter, compiled for GPUs that are not here, and only where they can run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_tiled import unit
from torch import Tensor

from mmcontrast.losses import sigmoid_loss, symmetric_info_nce, tiled_info_nce, tiled_sigmoid_loss
from mmcontrast.losses.kernel import kernel_problem

ON_CHIP = 99 * 1024
"""Bytes of shared memory that a block may take on compute capability 8.6 and 8.9, which have the least."""


def test_in_the_interpreter() -> None:
    """In a process of its own: it has to be chosen before triton is imported, and other tests import it."""
    pytest.importorskip("triton", reason="the package triton is for Linux")
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "interpreted_triton.py")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def launches(
    dtype: torch.dtype, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Every kernel with the arguments that it is launched with."""
    from mmcontrast.losses import triton_launch
    from mmcontrast.losses.triton_launch import PLAIN, Counted, Rectangles

    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def record(self: Rectangles, kernel: Any, grid: tuple[int, int], *arguments: Any) -> None:
        found.append((kernel, arguments, self._fixed))

    monkeypatch.setattr(Rectangles, "_launch", record)
    monkeypatch.setattr(triton_launch, "_precision", lambda device: "tf32x3")
    image, text = unit(64, 0, dtype, 48), unit(64, 1, dtype, 48)
    through = Rectangles(image, text, torch.tensor(10.0), 0, 64)
    place, weights, sums = (slice(0, 64), slice(0, 64)), torch.zeros(64, 64), torch.zeros(64)
    through.logits(*place)
    counted = Counted(weights, weights) if weighted else PLAIN
    through.sums(*place, counted)
    slopes = through.info_nce_slopes(*place, counted, sums, sums)
    through.sigmoid_slopes(*place, counted, torch.zeros(1), wanted=True)
    through.add_gradients(*place, slopes, torch.zeros(64, 48), torch.zeros(64, 48))
    return found


def compiled(kernel: Any, arguments: tuple[Any, ...], fixed: dict[str, Any], capability: int) -> Any:
    """As triton would compile it on such a GPU: None and 1 are constants, and addresses multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kinds = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
    signature, constants, aligned = {}, {}, {}
    for number, parameter in enumerate(kernel.params):
        value = fixed[parameter.name] if parameter.is_constexpr else arguments[number]
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name], constants[number,] = "constexpr", value
        else:
            signature[parameter.name] = kinds[value.dtype] if isinstance(value, Tensor) else "i32"
            if isinstance(value, Tensor) or not parameter.do_not_specialize:
                aligned[number,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": fixed["num_warps"], "num_stages": fixed["num_stages"]}
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize(("dtype", "weighted", "capability"), [(torch.float32, False, 80), (torch.bfloat16, True, 90)])
def test_the_kernels_compile(
    dtype: torch.dtype, weighted: bool, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes Python that the compiler does not; and a block that is too large fails only on a GPU."""
    pytest.importorskip("triton", reason="the package triton is for Linux")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = set()
    for kernel, arguments, fixed in launches(dtype, weighted, monkeypatch):
        result = compiled(kernel, arguments, fixed, capability)
        assert result.metadata.shared <= ON_CHIP
        assert ("wgmma" if capability == 90 else "mma.sync") in result.asm["ptx"]  # on tensor cores
        names.add(kernel.__name__)
    assert names == {"similarities", "info_nce_sums", "info_nce_slopes", "sigmoid_slopes", "add_product"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_on_a_gpu(loss: str, dtype: torch.dtype, error: float) -> None:
    """Two rectangles and a bit, at scale 100: tf32 instead of tf32x3, say, would be found."""
    image = unit(9000, 0, dim=200)
    text = torch.nn.functional.normalize(image + image.roll(1, 0) + 0.4 * unit(9000, 1, dim=200), dim=1)
    inputs = [x.to("cuda", dtype).requires_grad_() for x in (image, text)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    if loss == "info_nce":
        actual, expected = tiled_info_nce(*inputs, 100.0, kernel="triton"), symmetric_info_nce(*exact, 100.0)
    else:
        actual = tiled_sigmoid_loss(*inputs, 100.0, -60.0, kernel="triton")
        expected = sigmoid_loss(*exact, 100.0, -60.0)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)
    for got, want in zip(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, exact), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=0, atol=error * float(want.abs().max()))


def test_asking_for_triton_without_a_gpu_or_the_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    image = unit(4, 0, torch.float32)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ValueError, match=r"^kernel triton needs a GPU, and this is cpu; take torch$"):
        tiled_info_nce(image, image, 9.0, kernel="triton")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^kernel triton needs the package triton, which is not installed"):
        tiled_sigmoid_loss(image, image, 9.0, -3.0, kernel="triton")
    assert kernel_problem("torch", torch.device("cpu")) is None


def test_without_the_package_the_rest_works() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, mmcontrast.losses\n"
        "print(float(mmcontrast.losses.tiled_info_nce(torch.eye(4), torch.eye(4), 1.0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(0.7437, abs=1e-4)  # log(e + 3) - 1
