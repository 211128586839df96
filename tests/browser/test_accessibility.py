"""Every page, wide and narrow, light and dark: axe-core finds nothing, nothing overflows, all can be read and seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from app.main import create_app

from .accessibility import defects_of, own
from .chromium import Watch
from .conftest import MakeUser, OpenPage
from .pages import NOT_PAGES, pages_of, routes_without_a_page
from .world import make_studio

GOOD = """
<style>button { min-height: 24px; padding: 0; border: 0 } :focus-visible { outline: 2px solid blue }</style>
<main><h1>Page</h1><p style="color: #555">Text with <a href="/">a link</a>.</p>
<label>Name <input style="height: 24px"></label> <button>Send</button>%s</main>
"""


@pytest.fixture
def blank_page(chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page()
    yield page
    page.close()


@pytest.mark.timeout(1200)  # some seventy pages, each four times
def test_every_page_can_be_read_and_used_at_any_width_in_light_and_dark(
    make_user: MakeUser, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    studio = make_studio(make_user("admin", "Ada Okafor"), tmp_path)
    labeler = make_user("labeler", "Noor Haddad")
    watch.expect("404")  # the page that says that there is nothing
    open_pages = {user: open_page(user) for user in (None, labeler, studio.labeler, studio.admin)}
    for page in open_pages.values():
        # A page that renews itself while axe-core looks at it would show it headings that are no longer there.
        page.route("**/live*", lambda route: route.fulfill(status=204))
    pages = pages_of(studio, labeler)
    unseen = routes_without_a_page(create_app(), [path for _, path in pages.values()])
    assert unseen == set(NOT_PAGES), "A new page belongs into `pages_of`; what is no page, into `NOT_PAGES`."
    defects: list[str] = []
    layers_seen: set[str] = set()
    for name, (user, path) in pages.items():
        open_pages[user].goto(path)
        defects += [f"{name}, {defect}" for defect in defects_of(open_pages[user], layers_seen)]
    assert defects == [], "\n".join(defects)


def test_axe_core_and_our_own_checks_find_nothing_in_a_good_page(blank_page: Page) -> None:
    show(blank_page, "")
    assert list(defects_of(blank_page)) == []


def test_axe_core_finds_what_is_wrong_on_a_page_and_in_what_opens_over_it(blank_page: Page) -> None:
    bad = {
        "label": "<input>",
        "image-alt": "<img src=data:,>",
        "duplicate-id-aria": "<p id=x>one</p><p id=x>two</p><input aria-labelledby=x>",
        "target-size": "<button style='min-height: 0; display: block; height: 15px'>Above</button>" * 2,
        "color-contrast": "<p style='color: #888'>text</p>",
        "heading-order": "<h4>a step too far</h4>",
        "aria-prohibited-attr": "<pre aria-label='undecided'>text</pre>",
        "button-name": "<dialog><button></button></dialog>",
        "select-name": "<div popover>Text <select></select></div>",
        "link-name": "<details><summary>More</summary><div style='position: absolute'><a href='/'></a></div></details>",
    }
    show(blank_page, "".join(bad.values()))
    found = list(defects_of(blank_page))
    assert [rule for rule in bad if not any(f": {rule}: " in line for line in found)] == []


@pytest.mark.parametrize(
    ("body", "defect"),
    [
        ("<p style='width: 2000px'>wide</p>", "px wider than the window"),
        ("<h1>second</h1>", "2 first headings"),
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
def test_our_own_checks_find(body: str, defect: str, blank_page: Page) -> None:
    show(blank_page, body)
    (found,) = own(blank_page)
    assert defect in found


def show(page: Page, body: str) -> None:
    page.set_content(f"<!doctype html><html lang=en><title>Page</title>{GOOD.replace('%s', body)}</html>")
