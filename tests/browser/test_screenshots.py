"""The screenshots of the documentation: `pytest tests/browser/test_screenshots.py --screenshots docs/screenshots`."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from app.models import User

from . import texts
from .conftest import MakeUser, OpenPage
from .labeling import letters, rank_by_form
from .pages import pages_of
from .world import make_studio

DESK = ("settings", "guidelines", "own answers")
WIDTHS = {1280: 1000, 390: 1180}
"""Width of the window, and how much of a page is kept, in pixels."""


def test_every_screen_of_the_guide_is_drawn(
    make_user: MakeUser, open_page: OpenPage, tmp_path: Path, screenshots: Path
) -> None:
    admin = make_user("admin", "Ada Okafor")
    labelers = [make_user("labeler", "Jonas Petri"), make_user("labeler", "Mia Duarte")]
    labeler = make_user("labeler", "Noor Haddad")
    studio = make_studio(admin, tmp_path, labelers)
    known = {**pages_of(studio, labeler), "work": (labelers[1], "/work")}  # somebody who is in the middle of the day
    known["side by side"] = known["ranking"]
    for name in (
        "sign-in",
        "work",
        "ranking",
        "side by side",
        "demonstration",
        "chat",
        "project",
        "import",
        "run",
        "models",
        "quality",
        "round",
        "schedules",
        *DESK,
    ):
        user, path = known[name]
        for width in WIDTHS:
            for scheme in ("light", "dark") if name == "ranking" else ("light",):
                page = _open(open_page, user, path, name, width, scheme)
                suffix = "-dark" if scheme == "dark" else ""
                _draw(page, screenshots / f"{name.replace(' ', '-')}-{width}{suffix}.png", width)
                page.context.close()


def _open(open_page: OpenPage, user: User | None, path: str, name: str, width: int, scheme: str) -> Page:
    page = open_page(user, width=width, height=800 if width > 700 else 844, scheme=scheme)
    page.goto(path)
    if name in ("ranking", "side by side"):
        judged = {"Give it more": 1, "Weigh your flour": 1, "There are many": 3}
        rank_by_form(page, {text: rank for text in letters(page) for start, rank in judged.items() if start in text})
    if name == "side by side":
        alike = [letter for text, letter in letters(page).items() if "before you change anything else" in text]
        page.keyboard.press("v")
        for place, letter in zip(("left", "right"), alike, strict=True):
            page.get_by_label(f"Answer on the {place}").select_option(letter)
        page.get_by_role("checkbox", name="Differences").check()
        page.locator("[data-differences-note]:not(:empty)").wait_for()
    if name == "demonstration":
        asked = page.locator(".prompt .plain-text").inner_text()
        page.get_by_label("Your answer").fill(texts.QUESTIONS[asked][0])
    if name == "chat":
        page.locator("input[value=b2]").check(force=True)
    if name == "import":
        page.get_by_label("Paste lines").fill("\n".join(texts.QUESTIONS))
    return page


def _draw(page: Page, file: Path, width: int) -> None:
    """Write a page from its top, as far as it is long and at most as far as a reader looks."""
    page.evaluate("document.activeElement?.blur(); scrollTo(0, 0)")
    height = min(page.evaluate("document.documentElement.scrollHeight"), WIDTHS[width])
    # A window of that height: Playwright's own full pages would lose the touch screen and what sticks to the window.
    page.set_viewport_size({"width": width, "height": height})
    page.screenshot(path=file)
