"""Every page, wide and light, narrow and dark: nothing overflows, everything has a name, can be hit, read and seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from .chromium import Watch
from .conftest import MakeUser, OpenPage
from .pages import pages_of
from .world import make_studio

CHECKS = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")
GOOD = """
<style>button { min-height: 24px; padding: 0; border: 0 } :focus-visible { outline: 2px solid blue }</style>
<h1>Page</h1><p style="color: #555">Text with <a href="/">a link</a>.</p>
<label>Name <input style="height: 24px"></label> <button>Send</button>
"""
OPEN_EVERYTHING = "document.querySelectorAll('details').forEach((details) => { details.open = true })"


@pytest.fixture
def blank_page(chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page()
    yield page
    page.close()


def test_every_page_can_be_read_and_used_on_a_wide_light_screen_and_a_narrow_dark_one(
    make_user: MakeUser, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    studio = make_studio(make_user("admin", "Ada Okafor"), tmp_path)
    labeler = make_user("labeler", "Noor Haddad")
    watch.expect("404")  # the page that says that there is nothing
    open_pages = {user: open_page(user) for user in (None, labeler, studio.admin)}
    defects: list[str] = []
    for name, (user, path) in pages_of(studio, labeler).items():
        page = open_pages[user]
        page.goto(path)
        page.keyboard.press("Tab")
        page.evaluate(OPEN_EVERYTHING)
        for width, scheme in ((1280, "light"), (390, "dark")):
            page.set_viewport_size({"width": width, "height": 844})
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            defects += [f"{name}, {width} px, {scheme}: {defect}" for defect in page.evaluate(CHECKS)]
    assert defects == [], "\n".join(defects)


@pytest.mark.parametrize(
    ("body", "defect"),
    [
        ("<p style='width: 2000px'>wide</p>", "px wider than the window"),
        ("<h1>second</h1>", "2 first headings"),
        ("<p id=x></p><p id=x></p>", "the id x stands twice"),
        ("<input>", "no label"),
        ("<button style='width: 30px'></button>", "no name"),
        ("<img src=data:,>", "no alternative text"),
        ("<p aria-describedby=nowhere>text</p>", "names #nowhere"),
        ("<button style='min-height: 0'>above</button><br><button style='min-height: 0'>below</button>", "target of"),
        ("<p style='color: #888'>text</p>", "contrast of 3.54"),
        (
            "<div style='background: #444'><p style='color: #000; background: transparent'>text</p></div>",
            "contrast of 2.16",
        ),
        ("<p style='opacity: 0.5'>text</p>", "contrast of 3.9"),
        ("<button style='outline: none'>wide enough</button>", "the focus does not show"),
        ("<button style='outline: 2px solid #eee'>wide enough</button>", "the focus is faint"),
    ],
)
def test_the_checks_find(body: str, defect: str, blank_page: Page) -> None:
    blank_page.set_content(f"<!doctype html><title>Page</title>{GOOD}{body}")
    blank_page.keyboard.press("Tab")
    assert [found for found in blank_page.evaluate(CHECKS) if defect in found]
    assert len(blank_page.evaluate(CHECKS)) == 1


def test_the_checks_find_nothing_in_a_good_page(blank_page: Page) -> None:
    blank_page.set_content(f"<!doctype html><title>Page</title>{GOOD}")
    blank_page.keyboard.press("Tab")
    assert blank_page.evaluate(CHECKS) == []
