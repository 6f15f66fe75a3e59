"""The floors of the house: imports go downward only, and only `build` and `cli` see the config."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmcontrast

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mmcontrast"

FLOORS = [
    {"errors", "task_names"},
    {"types"},
    {"config", "preprocess", "distributed"},
    {"losses", "negatives", "evaluation.metrics"},
    {"models", "data"},
    {"embedding"},
    {"evaluation", "training", "searching"},
    {"export", "report", "demo"},
    {"build"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FORBIDDEN = {("export", "training")}
MAY_SEE_CONFIG = {"config", "build", "cli"}
FACE = set(mmcontrast.__all__)


def room_of(module: str) -> str:
    """Room of a dotted module inside the package: "data.columns" is in data, "embedding_folder" in embedding."""
    if module == "evaluation.metrics":
        return module
    room = module.split(".")[0]
    return room if room in FLOOR else room.split("_")[0]


def imports_of(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Dotted modules of ours that `source`, the text of mmcontrast.`module`, imports anywhere in it."""
    here = ["mmcontrast", *module.split(".")]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("mmcontrast.") for name in names if name.startswith("mmcontrast."))


def faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What the imports of one module break."""
    found, room = [], room_of(module)
    for name in imports_of(source, module, is_package=is_package):
        target = "evaluation.metrics" if name.startswith("evaluation.metrics") else room_of(name)
        line = f"{module} imports {name}"
        if target not in FLOOR:
            found.append(f"{line}, which is in no known room")
        elif target == room:
            continue
        elif room == "losses":
            found.append(f"{line}, but losses import nothing of ours")
        elif (room, target) in FORBIDDEN or FLOOR[target] >= FLOOR[room]:
            found.append(f"{line}, but imports go downward only")
        elif target == "config" and room not in MAY_SEE_CONFIG:
            found.append(f"{line}, but only build and cli see the config")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):  # the face of the package loads all rooms, lazily
            yield ".".join(part for part in parts if part != "__init__"), path


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_floors(module: str, path: Path) -> None:
    assert room_of(module) in FLOOR, "give the new room a floor in FLOORS"
    assert faults(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("losses.sigmoid", "from mmcontrast.types import Features", "losses import nothing of ours"),
        ("data.columns", "from mmcontrast.models import DualEncoder", "downward only"),
        ("models.towers", "from ..data import open_source", "downward only"),
        ("evaluation.tasks", "def f():\n    import mmcontrast.training.optim", "downward only"),
        ("training.trainer", "from mmcontrast import evaluation", "downward only"),
        ("export.hub", "from ..training.checkpoint import save", "downward only"),
        ("evaluation.metrics", "from mmcontrast.evaluation.retrieval import x", "downward only"),
        ("training.trainer", "from mmcontrast.config import Config", "only build and cli see the config"),
        ("types", "if TYPE_CHECKING:\n    from .config import Config", "downward only"),
        ("data.columns", "from mmcontrast import evaluate", "in no known room"),
        ("build.parts", "from mmcontrast.cli import app", "downward only"),
    ],
)
def test_the_check_itself_finds_faults(module: str, source: str, fault: str) -> None:
    (found,) = faults(source, module)
    assert fault in found


def test_the_check_itself_lets_good_imports_pass() -> None:
    assert faults("from .sigmoid import x\nimport torch", "losses", is_package=True) == []
    assert faults("from mmcontrast.config import Config\nfrom mmcontrast import distributed", "build.parts") == []
    assert faults("from mmcontrast.evaluation.metrics import recall", "evaluation.tasks") == []
    assert faults("import mmcontrast", "cli.commands") == []


RECIPES = sorted((ROOT / "recipes").glob("*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_short_and_use_public_names_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    tree = ast.parse(text)
    assert f"Example: python recipes/{path.name}" in (ast.get_docstring(tree) or "")
    assert set(imports_of(text, "")) <= FACE
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mmcontrast"
    }
    assert used <= FACE


def test_recipes_are_no_package() -> None:
    assert {path.stem for path in RECIPES} >= {"pretrain", "zero_shot_eval"}
    assert not (ROOT / "recipes" / "__init__.py").exists()
