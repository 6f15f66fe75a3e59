"""A real browser for tests, where there is one: pages are opened as files, and nothing else may be asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "MMCONTRAST_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome", "chrome-headless-shell")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def find_browser() -> str:
    """A Chromium, or a skip that says where it was looked for."""
    named = os.environ.get(VARIABLE)
    if named and not Path(named).is_file():
        pytest.fail(f"{VARIABLE}: there is no file {named}")
    found = named or next((found for name in NAMES if (found := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser on this machine: set {VARIABLE}, or install one of {', '.join(NAMES)}")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: mmcontrast[browser]")
    executable = find_browser()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page in a window of some size, and all that went wrong or was asked for while it was open."""

    def __init__(self, browser: Any, path: Path, *, width: int, height: int, touch: bool = False) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch, device_scale_factor=1
        )
        self.page = context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._asked(request.url))
        self.own = path.as_uri()
        self.page.goto(self.own)

    def _asked(self, url: str) -> None:
        if url.partition("#")[0] != self.own and not url.startswith("data:"):
            self.faults.append(f"asked for {url[:200]}")

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        found: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found
