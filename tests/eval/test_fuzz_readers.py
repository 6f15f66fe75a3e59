"""A short run of the fuzzer, and that it finds what it is there to find."""

from __future__ import annotations

import json
import random
from pathlib import Path

import fuzz_readers
import fuzz_worker
import pytest
from fuzz_mutations import mutated
from fuzz_targets import TARGETS
from fuzz_worker import STATE, Counts, Guard, made_seeds, one, sample

pytestmark = pytest.mark.usefixtures("one_thread")
FOUND = {"picture": [471], "parquet": [406, 4777], "image_cache": [371], "model": [544], "index": [1768]}
FOUND["features"] = [537, 760, 893, 1116, 1139, 3374, 4075, 4095]
"""Inputs that once did what none may: the second of Parquet ended the process."""
FEW = {"model": 12, "tokenizer": 25, "index": 25}


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """One for all: hooks stay as long as the process."""
    return Guard(tmp_path_factory.getbasetemp().resolve())


@pytest.mark.filterwarnings("ignore")  # of libraries, about what is in the files
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_in_one_line(
    name: str, guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCONTRAST_CACHE", str(tmp_path / "cache"))
    seeds = made_seeds(TARGETS[name], tmp_path)
    counts = Counts()
    for number in [*range(len(seeds) + FEW.get(name, 60)), *FOUND.get(name, [])]:
        problems = one(TARGETS[name], name, seeds, number, 0, tmp_path, guard, counts)
        assert problems == [], f"--reproduce {name} {number}"
    assert counts.accepted >= len(seeds) - 1  # of the configs one is none
    assert (counts.refused > 0) == (name != "lines")  # whose damaged lines are left out


def test_inputs_depend_on_their_number_only(tmp_path: Path) -> None:
    seeds = made_seeds(TARGETS["csv"], tmp_path)
    first = [sample(TARGETS["csv"], "csv", seeds, number, 0) for number in range(40)]
    assert first == [sample(TARGETS["csv"], "csv", seeds, number, 0) for number in range(40)]
    assert first[: len(seeds)] == seeds
    assert len({str(files) for files in first}) == 40
    assert first[10] != sample(TARGETS["csv"], "csv", seeds, 10, 1)


def test_a_value_in_json_is_changed_and_it_stays_json() -> None:
    files = {"x": json.dumps({"a": [1, {"b": 2}], "c": "d"}).encode()}
    changed = [mutated(files, [files], random.Random(i))["x"] for i in range(200)]
    parsed = 0
    for data in changed:
        try:
            parsed += json.loads(data) != json.loads(files["x"])
        except (ValueError, RecursionError):
            continue
    assert 10 < parsed < 190


STUB = f"""
import os, signal, socket, sys, time
sys.path.insert(0, {str(Path(fuzz_readers.__file__).parent)!r})
import fuzz_targets, fuzz_worker
from mmcontrast.errors import DataError

def read(folder):
    number = int((folder / "number").read_text())
    if number == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 3:
        time.sleep(60)
    if number == 4:
        raise KeyError("not ours")
    if number == 5:
        raise DataError("two\\nlines")
    if number == 6:
        open(folder.parents[1] / "stray", "w").close()
    if number == 7:
        bytearray(3 << 30)

target = fuzz_targets.Target(lambda _: [{{"number": str(i).encode()}} for i in range(9)], read, 1.0)
fuzz_worker.TARGETS["lines"] = target
fuzz_worker.main()
"""


def test_everything_that_may_not_happen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(fuzz_readers, "WORKER", tmp_path / "stub.py")
    work = tmp_path / "work"
    found = fuzz_readers.fuzz("lines", 9, work, seed=0, seconds=2.0, megabytes=1024)
    problems = {failure["input"]: failure["problem"] for failure in found["found"]}
    assert problems.keys() == {2, 3, 4, 5, 6, 7}
    assert problems[2] == "ends the process: exit code -11"
    assert problems[3] == "hangs: over 2 seconds"
    assert problems[4].startswith("KeyError at stub.py:")
    assert problems[5] == "a valid file is refused: two\nlines"
    assert problems[6].startswith("open ")
    assert problems[7].startswith("MemoryError at stub.py")
    assert (found["inputs"], found["accepted"]) == (9, 4)
    assert STATE.unpack((work / "state").read_bytes())[0] == 9


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "fuzz.json"
    assert fuzz_readers.main(["--inputs", "200", "--target", "lines", "--output", str(output)]) == 0
    values = json.loads(output.read_text())
    assert values["targets"]["lines"]["inputs"] == 200
    assert values["targets"]["lines"]["failures"] == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == [
        "all",
        "200",
        *(str(values["targets"]["lines"][key]) for key in ("accepted", "refused", "failures")),
    ]
    assert fuzz_worker.TARGETS is TARGETS
