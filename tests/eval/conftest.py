"""The benchmarks and the fuzzer are scripts beside each other, no packages."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("benchmarks", "fuzz", "parity"):
    sys.path.insert(0, str(Path(__file__).parents[2] / "eval" / folder))
