"""The machine's Chromium for the tests, and a watch over everything that must never happen in it."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Request, WebError

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--font-render-hinting=none",  # the same glyphs on every machine, for the screenshots
    "--hide-scrollbars",
)

# A violation of the content security policy also reaches the console, but there a page could have hidden it.
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => {
  reportViolation(`${event.violatedDirective} blocked ${event.blockedURI || "inline code"} on ${location.pathname}`);
});
"""


def find_chromium() -> str:
    """Return the path of the first browser on PATH; fail with the remedy where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail(
            f"The browser tests need one of {', '.join(NAMES)} on PATH: run `make test`, which installs Debian's "
            "chromium, or install it by hand.",
            pytrace=False,
        )
    return found


def arguments() -> list[str]:
    """Return the command line; as root Chromium starts only without its sandbox."""
    return [*ARGUMENTS, "--no-sandbox"] if os.geteuid() == 0 else [*ARGUMENTS]


class Watch:
    """Collects, over all pages of a test, what fails it: errors, blocked code, failed requests, strange hosts, dialogs.

    A test that provokes one of these says so with `expect`, and then it has to happen.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self._expected: dict[str, bool] = {}

    def attach(self, context: BrowserContext) -> None:
        """Follow everything that happens in a context."""
        context.expose_function("reportViolation", lambda text: self._note(f"content security policy: {text}"))
        context.add_init_script(REPORT_VIOLATIONS)
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("request", self._on_request)
        context.on("requestfailed", self._on_failure)

    def expect(self, pattern: str) -> None:
        """Allow, and demand, a problem that the regular expression finds."""
        self._expected.setdefault(pattern, False)

    def clear(self) -> None:
        """Forget the requests so far, to count those of the next step."""
        self.requests.clear()

    @property
    def sent(self) -> list[str]:
        """Pages and fragments asked for since `clear`, such as "POST /work/…/ranking"; without what is kept."""
        return [self._words(request) for request in self.requests if "/static/" not in request.url]

    def check(self) -> None:
        """Fail if anything happened that must not, or something announced did not."""
        assert self.problems == [], "\n".join(self.problems)
        missing = [pattern for pattern, seen in self._expected.items() if not seen]
        assert missing == [], "what the test announced with `expect` did not happen"

    def _words(self, request: Request) -> str:
        return f"{request.method} {request.url.removeprefix(self.address).partition('?')[0]}"

    def _note(self, problem: str) -> None:
        found = [pattern for pattern in self._expected if re.search(pattern, problem)]
        for pattern in found:
            self._expected[pattern] = True
        if not found:
            self.problems.append(problem)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self._note(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def _on_error(self, error: WebError) -> None:
        self._note(f"page error: {error.error}")

    def _on_failure(self, request: Request) -> None:
        # The browser itself drops what a page that is being left was still asking for: its poll, its icon, a page that
        # the next step of the test overtook. What a server or the policy refuses has other names.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"failed: {self._words(request)} {request.failure}")

    def _on_request(self, request: Request) -> None:
        self.requests.append(request)
        if not request.url.startswith((self.address + "/", "data:", "blob:")):
            self._note(f"request to a strange host: {request.url}")
