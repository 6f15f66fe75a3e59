"""A real Chromium, driven over a pipe by its DevTools protocol: nothing to install beside the browser."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

NAMES = (
    "chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable", "chrome",
    "chrome-headless-shell",
)  # fmt: skip
FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--no-zygote", "--single-process", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server", "--hide-scrollbars",
)  # fmt: skip

_MIDDLE = """(() => {
  const element = document.querySelector(%s);
  element.scrollIntoView({block: "center"});
  const box = element.getBoundingClientRect();
  const at = [box.x + box.width / 2, box.y + box.height / 2];
  return element.contains(document.elementFromPoint(...at)) ? at : null;
})()"""


def find_chromium() -> str:
    """Path of a browser, or a skip that says how to give one."""
    given = os.environ.get("MMCONTRAST_CHROMIUM")
    found = given or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None or not Path(found).is_file():
        pytest.skip(f"no Chromium ({given or ', '.join(NAMES)}): set MMCONTRAST_CHROMIUM to one")
    return found


class Chromium:
    """One page of a headless browser.

    Args:
        binary: from `find_chromium`.
        profile: an empty folder.
        size: of the window.
    """

    def __init__(self, binary: str, profile: Path, size: tuple[int, int] = (1280, 1000)) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._ids, self._rest = itertools.count(1), b""
        self._in, theirs_out = _high_pipe()
        theirs_in, self._out = _high_pipe()
        self._log = profile / "log.txt"
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT)
        # The browser reads from descriptor 3 and writes to 4.
        places = ((theirs_in, 3), (theirs_out, 4), (log, 1), (log, 2))
        self._process = os.posix_spawn(
            binary,
            [binary, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in places],
            setpgroup=0,
        )
        for descriptor in (theirs_in, theirs_out, log):
            os.close(descriptor)
        target = self._call("Target.getTargets")["targetInfos"]
        page = next(info["targetId"] for info in target if info["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(*size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)  # a group of their own: the browser and its helpers
        os.waitpid(self._process, 0)
        os.close(self._in)
        os.close(self._out)

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size that pages see."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of some JavaScript."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Until some JavaScript is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.run(f"Boolean({condition})"):  # an element would come as an empty object
                return
            time.sleep(0.05)
        raise AssertionError(f"not true after {seconds} s: {condition}\n{self.run('document.body.innerText')}")

    def type(self, selector: str, text: str) -> None:
        """Click on a field and type into it, in place of what is there."""
        self.click(selector)
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """A click of the mouse on the middle of an element."""
        at, before, end = None, None, time.monotonic() + 60
        while at is None or at != before:  # until nothing lies above it or moves it any more
            assert time.monotonic() < end, f"something lies above {selector}"
            time.sleep(0.1)
            at, before = self.run(_MIDDLE % json.dumps(selector)), at
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, to the page."""
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(values["exceptionDetails"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.complaints.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], 60)
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise AssertionError(
                    f"the browser ended or says nothing: see {self._log}: {self._log.read_text()[-500:]}"
                )
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _high_pipe() -> tuple[int, int]:
    """A pipe whose descriptors are far from those of the browser."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 100) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
