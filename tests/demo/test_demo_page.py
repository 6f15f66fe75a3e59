"""The demo as people have it: the command in a process of its own, asked over HTTP and in a real browser."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chromium_pipe import Chromium, find_chromium
from searching_fakes import BOMB, paint, picture_folder, tiny_model
from typer.testing import CliRunner

from mmcontrast.build import open_search
from mmcontrast.cli import app
from mmcontrast.demo.server import reserve
from mmcontrast.errors import MMContrastError
from mmcontrast.searching import Query

EVIL = "<img src=x onerror=document.title='hacked'> & red"


@dataclass
class Served:
    """A demo that runs."""

    process: subprocess.Popen[str]
    address: str
    model: Path
    folder: Path
    temporary: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`mmcontrast demo` on a free port."""
    pytest.importorskip("gradio", reason="the demo needs gradio: pip install 'mmcontrast[demo]'")
    above = tmp_path_factory.mktemp("demo")
    folder = picture_folder(above / "my <pictures>")
    (folder / "captions.csv").write_text(f'image,caption\n00.png,"{EVIL}"\n01.png,one green square\n')
    tiny_model().save_pretrained(above / "model")
    (above / "tmp").mkdir()
    (above / "cwd").mkdir()
    environment = os.environ | {
        "MMCONTRAST_CACHE": str(above / "cache"),
        "TMPDIR": str(above / "tmp"),
        "OMP_NUM_THREADS": "1",
    }
    log = (above / "stderr.txt").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "mmcontrast", "demo", str(above / "model"), str(folder), "--port", "0"],
        env=environment, cwd=above / "cwd", stdout=subprocess.PIPE, stderr=log, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert found, (above / "stderr.txt").read_text()
    try:
        yield Served(process, found[0], above / "model", folder, above / "tmp")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0  # Ctrl-C is the way to end it
        assert list((above / "cwd").iterdir()) == []
        assert "Traceback" not in (above / "stderr.txt").read_text()
        assert [path for path in (above / "tmp").iterdir() if path.name.startswith("mmcontrast-demo-")] == []
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        log.close()


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    """gradio's own client."""
    from gradio_client import Client

    return Client(served.address, verbose=False, analytics_enabled=False)


def expected(served: Served, words: str, k: int) -> list[str]:
    """Names, by the same model and folder."""
    searcher = open_search(served.model, served.folder, index=served.temporary / "other index")
    return [hit.name for hit in searcher.search(Query(words), k)]


def test_words_over_http(served: Served, client: Any) -> None:
    found, notes = client.predict("a red square", 5, api_name="/search_words")
    names = expected(served, "a red square", 5)
    captions = {"00.png": EVIL, "01.png": "one green square"}
    assert [item["caption"].split(" · ", 1)[1] for item in found] == [captions.get(name, name) for name in names]
    assert not notes
    _, notes = client.predict("a red square", 50, api_name="/search_words")
    assert notes == "<p>there are 8 pictures only, not 50: all are shown</p>"


def test_a_picture_over_http(served: Served, client: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file

    picture = paint(tmp_path / "q.png", 3)
    found, _ = client.predict(handle_file(str(picture)), 2, api_name="/search_picture")
    assert found[0]["caption"] == "1.000 · 03.png"
    result = client.predict(handle_file(str(picture)), "square, circle", api_name="/classify")
    assert sum(one["confidence"] for one in result["confidences"]) == pytest.approx(1)


@pytest.mark.parametrize("words", ["", "  \n"])
def test_empty_words_are_an_error_of_one_line(client: Any, words: str) -> None:
    with pytest.raises(Exception, match="the query is empty"):
        client.predict(words, 5, api_name="/search_words")


def test_uploads_that_are_too_large(client: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file

    (tmp_path / "bomb.png").write_bytes(BOMB)
    with pytest.raises(Exception, match=r"(?i)bomb|limit"):
        client.predict(handle_file(str(tmp_path / "bomb.png")), 5, api_name="/search_picture")


def get(served: Served, path: str, host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request("GET", path, headers={"Host": f"{host}:{served.port}"})
    with closing(connection):
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()


def test_no_file_is_served_but_what_was_found(served: Served, client: Any) -> None:
    for path in (served.folder / "00.png", served.model / "config.json", Path("/etc/passwd"), Path("pyproject.toml")):
        for route in (f"/gradio_api/file={path}", f"/file={path}", f"/gradio_api/file=../../{path}"):
            status, _, body = get(served, quote(route))
            assert status in (403, 404), (route, status)
            assert b"root:" not in body


def test_only_this_machine_and_by_its_own_name(served: Served) -> None:
    status, headers, _ = get(served, "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert get(served, "/", host="localhost")[0] == 200
    assert get(served, "/", host="attacker.example")[0] == 400
    with socket.socket() as other:  # not bound to the addresses of the network
        other.settimeout(2)
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):
            assert other.connect_ex((address, served.port)) != 0


def test_in_a_browser(served: Served, tmp_path: Path) -> None:
    with Chromium(find_chromium(), tmp_path) as browser:
        browser.open(served.address)
        browser.wait("document.querySelector('#words textarea, #words input')")
        browser.type("#words textarea, #words input", "a red square")
        browser.click("#search-words")
        count = "document.querySelectorAll('.found .grid-container img, .found .thumbnail-item img').length"
        browser.wait(f"{count} === 8")
        browser.wait("[...document.querySelectorAll('.found img')].every(i => i.complete && i.naturalWidth > 0)")
        text = browser.run("document.body.innerText")
        names = expected(served, "a red square", 8)
        captions = {"00.png": EVIL, "01.png": "one green square"}
        places = [text.index(captions.get(name, name)) for name in names]
        assert places == sorted(places)
        assert "there are 8 pictures only, not 12: all are shown" in text
        assert "my <pictures>" in text
        browser.type("#words textarea, #words input", "   ")
        browser.click("#search-words")
        browser.wait("document.body.innerText.includes('the query is empty')")

        browser.run("[...document.querySelectorAll('button[role=tab]')].find(t => t.innerText == 'Classes').click()")
        browser.wait("document.querySelector('#class-picture input[type=file]')")
        browser.choose_file("#class-picture input[type=file]", paint(tmp_path / "q.png", 3))
        browser.wait("document.querySelector('#class-picture img')")
        browser.type("#classes textarea", "a square\n<b>circle</b>")
        browser.click("#classify")
        browser.wait("document.querySelector('#probabilities').innerText.includes('<b>circle</b>')")
        assert browser.run("document.title") != "hacked"
        own = (served.address, "data:", "blob:", "about:")
        assert [url for url in browser.requests if not url.startswith(own)] == []
        assert browser.complaints == []


def test_a_busy_port(served: Served, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", str(served.model), str(served.folder), "--port", str(served.port)])
    assert result.exit_code == 1
    line = f"error: cannot listen on 127.0.0.1, port {served.port} (Address already in use): give another --port"
    assert line in result.stderr


def test_addresses_that_are_none() -> None:
    with pytest.raises(MMContrastError, match=r"cannot listen on 203.0.113.7, port 0"):
        reserve("203.0.113.7", 0)


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["demo", "model", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.strip() == "error: the demo needs gradio: pip install 'mmcontrast[demo]'"
