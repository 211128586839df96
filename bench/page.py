"""The ranking page in Chromium: what is transferred, what moves, and how long the next task takes after "Submit".

The web process runs as `plackett up` starts it, Chromium on the same machine. Bytes are those of the wire, headers
included, with an empty cache. The time from "Submit" ends when the next task has been drawn.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from app.auth import cookie_name
from bench.desk import Labeler, database, make_project, sign_in, web_process

SUBMITS = 120

WATCH_SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
  if (!entry.hadRecentInput) window.shifted += entry.value;
}))
  .observe({ type: "layout-shift", buffered: true });
"""
RANK = """() => document.querySelectorAll("#task .answer").forEach((answer, place) => {
  answer.querySelector(`input[type=radio][value="${place + 1}"]`).click();
})"""
SUBMIT = """() => new Promise((done) => {
  const number = () => document.querySelector("#task [name=submit_id]")?.value;
  const before = number(), started = performance.now();
  new MutationObserver((_, observer) => {
    if (!number() || number() === before) return;
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - started)));
  }).observe(document.body, { subtree: true, childList: true, attributes: true });
  document.querySelector("#task .submit").click();
})"""


def main() -> None:
    """Measure and print one line each."""
    with database() as (server, var):
        make_project("Page", 2_000, k=4)
        (labeler,) = sign_in(1)
        with web_process(server, var) as address, _page(address, labeler) as page:
            page.goto("/work")
            page.get_by_role("button", name="Start ranking").click()
            page.wait_for_load_state("networkidle")
            where = page.url
            transferred, requests = _weigh(page, where)
            print(
                f"page: {transferred / 1000:.1f} kB in {requests} requests for a first ranking screen of 4 answers; "
                f"layout shift while it loads {page.evaluate('window.shifted'):.4f}"
            )
            times = []
            for _ in range(SUBMITS):
                page.evaluate(RANK)
                times.append(page.evaluate(SUBMIT))
                page.wait_for_timeout(100)  # htmx has taken hold of the new form by then; nobody clicks sooner
            moved = page.evaluate("window.shifted")
            cuts = statistics.quantiles(times, n=100)
            print(
                f"page: from Submit to the next task drawn, {SUBMITS} times: p50 {cuts[49]:.0f} ms, "
                f"p95 {cuts[94]:.0f} ms; layout shift after all of it {moved:.4f}"
            )


def _weigh(page: Page, where: str) -> tuple[int, int]:
    """Load the page with an empty cache and return the bytes on the wire and the number of requests."""
    sizes: list[int] = []
    protocol = page.context.new_cdp_session(page)
    protocol.send("Network.enable")
    protocol.send("Network.clearBrowserCache")
    protocol.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
    page.goto(where, wait_until="networkidle")
    protocol.detach()
    return sum(sizes), len(sizes)


@contextmanager
def _page(address: str, labeler: Labeler) -> Iterator[Page]:
    chromium = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
    arguments = ["--headless=new", "--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=arguments, ignore_default_args=["--headless"]
        )
        context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 800})
        context.add_init_script(WATCH_SHIFTS)
        context.add_cookies([{"name": cookie_name(), "value": labeler.token, "url": address}])
        yield context.new_page()
        browser.close()
