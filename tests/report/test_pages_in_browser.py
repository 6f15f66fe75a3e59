"""Pages as a person sees them: in a real browser, on a desk and on a phone, every tab turned and the map touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import Watched, chromium
from evaluation_samples import full_page
from tiny_runs import CommandLines

from mmcontrast.report.evaluation import write_evaluation

WINDOWS = {"desk": (1280, 900, False), "phone": (390, 844, True)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def evaluated(tiny_run: Path, mmcontrast_command: CommandLines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real suite: retrieval and classification of a tiny model."""
    folder = tmp_path_factory.mktemp("page")
    tasks = {"captions": "retrieval", "shapes": "zero_shot"}
    lines = [
        f"- {{name: {name}, task: {task}, data: 'synthetic://scenes', split: validation}}"
        for name, task in tasks.items()
    ]
    (folder / "suite.yaml").write_text("tasks:\n" + "\n".join(lines))
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
def test_clicking_through(browser: Any, which: str, window: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(which)
    width, height, touch = WINDOWS[window]
    opened = Watched(browser, path, width=width, height=height, touch=touch)
    page = opened.page
    assert opened.overflow() == 0
    for link in page.locator("nav a").all():
        (link.tap if touch else link.click)()
        target = link.get_attribute("href")
        assert page.locator(f"{target} h2").is_visible()
    sections = page.locator(".tabs").all()
    assert len(sections) == 2
    for section in sections:
        labels = section.locator(".labels label").all()
        panes = section.locator("> .pane").all()
        assert len(labels) == len(panes) >= 5
        for number, label in enumerate(labels):
            (label.tap if touch else label.click)()
            assert [pane.is_visible() for pane in panes] == [number == place for place in range(len(panes))]
            assert opened.overflow() == 0, label.inner_text()
            panes[number].scroll_into_view_if_needed()
        for details in section.locator("details").all():
            if details.is_visible():
                details.locator("summary").click()
        section.locator(".labels label", has_text="Map").click()
        touch_the_map(page, section, touch=touch)
    broken = page.evaluate(
        "async () => { const all = [...document.images]; all.forEach(i => i.loading = 'eager');"
        "await Promise.all(all.map(i => i.decode().catch(() => 0)));"
        "return all.filter(i => !i.naturalWidth).length }"
    )
    assert broken == 0
    assert opened.overflow() == 0
    assert opened.faults == []
    page.context.close()


def touch_the_map(page: Any, section: Any, *, touch: bool) -> None:
    """Point at some dots: the card of each shows, alone, with its picture, and inside of the map."""
    field = section.locator(".picture-map")
    dots = field.locator("a").all()
    assert len(dots) >= 30
    assert field.locator("a > span:visible").count() == 0
    field.scroll_into_view_if_needed()
    for dot in dots[:: len(dots) // 6]:
        box = dot.locator("i").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        on_top = page.evaluate("([x, y]) => document.elementFromPoint(x, y)?.parentElement?.tagName", [x, y])
        if on_top != "A":
            continue  # another thing lies over it
        (page.touchscreen.tap if touch else page.mouse.move)(x, y)
        (card,) = field.locator("a > span:visible").all()
        inside, around = card.bounding_box(), field.bounding_box()
        assert inside["x"] >= around["x"] - 1
        assert inside["x"] + inside["width"] <= around["x"] + around["width"] + 1
        assert card.locator("b").evaluate("e => getComputedStyle(e).backgroundImage").startswith('url("data:image/jpeg')
    page.mouse.move(0, 0)


def test_the_keyboard_turns_the_tabs(browser: Any, hostile: Path) -> None:
    opened = Watched(browser, hostile, width=1280, height=900)
    page = opened.page
    first = page.locator(".tabs").first
    first.locator("input").first.focus()
    page.keyboard.press("ArrowRight")
    shown = [pane.is_visible() for pane in first.locator("> .pane").all()]
    assert shown.index(True) == 1
    assert sum(shown) == 1
    assert opened.faults == []
    page.context.close()


def test_on_paper_all_panes_show(browser: Any, hostile: Path) -> None:
    opened = Watched(browser, hostile, width=1280, height=900)
    opened.page.emulate_media(media="print")
    panes = opened.page.locator(".pane").all()
    assert all(pane.is_visible() for pane in panes)
    opened.page.context.close()
