"""Pages as a person sees them: in a real browser, on a desk and on a phone, every tab turned and the map touched."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium_pipe import Chromium, find_chromium
from evaluation_samples import full_page
from tiny_runs import CommandLines

from mmcontrast.data import open_source
from mmcontrast.data.scenes import SHAPES
from mmcontrast.report.evaluation import write_evaluation

WINDOWS = {"desk": (1280, 900), "phone": (390, 844)}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SHOWN = "[...document.querySelectorAll('#SECTION .pane')].map(pane => pane.checkVisibility())"
# The middles of some dots that nothing lies over, once their map is in view.
DOTS = """(() => {
  const field = document.querySelector('#SECTION .picture-map');
  field.scrollIntoView({block: 'center', behavior: 'instant'});
  const middles = [...field.querySelectorAll('a > i')].map(dot => {
    const box = dot.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2, dot.parentElement];
  });
  const free = middles.filter(([x, y, dot]) => document.elementFromPoint(x, y)?.parentElement === dot);
  return free.filter((_, place) => place % Math.ceil(free.length / 5) == 0).map(([x, y]) => [x, y]);
})()"""
CARDS = """(() => {
  const field = document.querySelector('#SECTION .picture-map'), around = field.getBoundingClientRect();
  return [...field.querySelectorAll('a > span')].filter(card => card.checkVisibility()).map(card => {
    const box = card.getBoundingClientRect(), style = getComputedStyle(card.querySelector('b'));
    const inside = box.left >= around.left - 1 && box.right <= around.right + 1;
    return [inside, style.backgroundImage.slice(0, 20), style.backgroundPosition];
  });
})()"""
BROKEN = """(async () => {
  const all = [...document.images];
  all.forEach(picture => picture.loading = 'eager');
  await Promise.all(all.map(picture => picture.decode().catch(() => 0)));
  return all.filter(picture => !picture.naturalWidth).length;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(find_chromium(), tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def evaluated(tiny_run: Path, mmcontrast_command: CommandLines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real suite: retrieval and classification of a tiny model."""
    folder, scenes = tmp_path_factory.mktemp("page"), open_source("synthetic://scenes", split="validation", rows=80)
    with (folder / "scenes.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "label"])
        for i in range(len(scenes)):
            picture, label = scenes.image(i), scenes.label(i)
            assert isinstance(picture, bytes)
            (folder / f"{i}.jpg").write_bytes(picture)
            rows.writerow([f"{i}.jpg", scenes.captions(i)[0], SHAPES[label or 0]])
    tasks = ["retrieval", "zero_shot"]
    lines = [f"- {{name: {task}, task: {task}, data: scenes.csv}}" for task in tasks]
    (folder / "suite.yaml").write_text("\n".join(["tasks:", *lines]))
    done = mmcontrast_command(
        "evaluate", tiny_run / "model", "--suite", "suite.yaml", "--report", "page.html", cwd=folder
    )
    assert done.code == 0, done.stderr
    return folder / "page.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation(full_page(), tmp_path_factory.mktemp("page") / "page.html")


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("which", ["evaluated", "hostile"])
def test_clicking_through(browser: Chromium, which: str, window: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(which)
    visit(browser, path, window)
    assert browser.run(OVERFLOW) == 0
    for number in range(1, browser.run("document.querySelectorAll('nav a').length") + 1):
        browser.click(f"nav a:nth-of-type({number})")
        assert browser.run("location.hash") == f"#section-{number}"
    for section in ("section-1", "section-2"):
        panes = len(browser.run(SHOWN.replace("SECTION", section)))
        assert panes >= 5
        for number in range(panes):
            browser.click(f"#{section} .labels label:nth-of-type({number + 1})")
            shown = browser.run(SHOWN.replace("SECTION", section))
            assert shown == [number == place for place in range(panes)]
            assert browser.run(OVERFLOW) == 0, f"tab {number + 1} of {section}"
        touch_the_map(browser, section, phone=window == "phone")  # the last tab
    browser.run("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert browser.run(OVERFLOW) == 0
    assert browser.run(BROKEN) == 0
    assert browser.complaints == []
    asked = {url.partition("#")[0] for url in browser.requests if not url.startswith("data:")}
    assert asked == {path.as_uri()}


def visit(browser: Chromium, path: Path, window: str) -> None:
    browser.resize(*WINDOWS[window], phone=window == "phone")
    browser.call("Emulation.setTouchEmulationEnabled", enabled=window == "phone")
    browser.open("about:blank")
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(path.as_uri())
    browser.run("document.documentElement.style.scrollBehavior = 'auto'")  # what moves is hard to hit


def touch_the_map(browser: Chromium, section: str, *, phone: bool) -> None:
    """Point at some dots, or tap them: the card of each shows, alone, with its picture, and inside of the map."""
    cards = CARDS.replace("SECTION", section)
    dots: list[Any] = browser.run(DOTS.replace("SECTION", section))
    assert len(dots) >= 4
    seen = set()
    for x, y in dots:
        if phone:
            browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
            browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            time.sleep(0.5)  # the browser waits whether more fingers come
        else:
            browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        # A finger is not that exact: the browser may take it to mean the dot beside.
        own = f"document.elementFromPoint({x}, {y})?.parentElement?.querySelector('span')?.checkVisibility()"
        browser.wait(f"{'true' if phone else own} && {cards}.length == 1", 20)
        ((inside, sheet, place),) = browser.run(cards)
        assert inside
        assert sheet.startswith('url("data:image/jpeg')
        seen.add(place)
    assert len(seen) >= (1 if phone else len(dots))
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)


def test_the_keyboard_turns_the_tabs(browser: Chromium, hostile: Path) -> None:
    visit(browser, hostile, "desk")
    browser.run("document.querySelector('.tabs > input').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    shown = browser.run(SHOWN.replace("SECTION", "section-1"))
    assert shown.index(True) == 1
    assert sum(shown) == 1


def test_on_paper_all_panes_show(browser: Chromium, hostile: Path) -> None:
    visit(browser, hostile, "desk")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert all(browser.run(SHOWN.replace("SECTION", "section-1")))
    browser.call("Emulation.setEmulatedMedia", media="")
