"""What the ranking page weighs on the wire, and that nothing on it moves by itself; `bench/` measures its speed."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from app import db

from . import world
from .conftest import MakeUser, OpenPage
from .labeling import start_ranking
from .texts import QUESTIONS

LIMIT = 100_000
WATCH_SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) window.shifts.push(`${entry.value}: ${entry.sources.map((one) => one.node?.className)}`);
  }
}).observe({ type: "layout-shift", buffered: true });
"""


def test_a_first_ranking_screen_is_light_and_nothing_on_it_moves(
    make_user: MakeUser, open_page: OpenPage, tmp_path: Path
) -> None:
    admin = make_user("admin", "Ada Okafor")
    with db.transaction() as session:
        world.open_for_ranking(session, admin, tmp_path / "model", QUESTIONS)
    page = open_page(make_user("labeler", "Noor Haddad"))
    start_ranking(page)
    page.add_init_script(WATCH_SHIFTS)

    first = transferred(page, empty_cache=True)
    again = transferred(page, empty_cache=False)

    assert first < LIMIT
    assert again < first / 3, "styles and scripts are kept"
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        page.reload(wait_until="networkidle")
        assert page.evaluate("window.shifts") == [], width


def transferred(page: Page, *, empty_cache: bool) -> int:
    """Load the page again and return the bytes on the wire, headers included."""
    sizes: list[int] = []
    protocol = page.context.new_cdp_session(page)
    protocol.send("Network.enable")
    if empty_cache:
        protocol.send("Network.clearBrowserCache")
    protocol.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    page.goto(page.url, wait_until="networkidle")
    protocol.detach()
    return sum(sizes)
