"""A person's browser, as far as the demo needs one: cookies, pages, forms sent as they stand on the page.

Everything the demo changes goes through this: the same forms, tokens and refusals that a person meets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from app.demo import pages
from app.demo.pages import Element, Form
from app.errors import PlackettError

TIMEOUT_SECONDS = 60.0


class RefusedError(PlackettError):
    """A page of ours answered with a refusal or an error; the sentence is the page's own."""


class Browser:
    """One visitor of the pages at `address`, a stranger until it signs in."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, follow_redirects=True, timeout=TIMEOUT_SECONDS, trust_env=False)
        self.path = "/"
        self.page = Element("")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def open(self, path: str) -> Element:
        """Open a page and return it."""
        return self._show(self._client.get(path))

    def form(self, action: str, **fields: str) -> Form:
        """Return the form of the open page that is sent to `action` and holds these fields."""
        return pages.form(self.page, action, **fields)

    def submit(
        self,
        form: Form,
        values: Mapping[str, str | Sequence[str]] | None = None,
        file: tuple[str, bytes] | None = None,
    ) -> Element:
        """Send a form with `values` over what stands in it, and return the page that answers.

        `file` is the name and content of an upload called "file". Raises `RefusedError` with the page's sentence.
        """
        data: dict[str, str | Sequence[str]] = {**form.fields, **(values or {})}
        return self._show(self._client.post(form.action, data=data, files={"file": file} if file else None))

    def id_in_path(self) -> UUID:
        """Return the id of what the open page shows: the last part of its address."""
        return UUID(self.path.rsplit("/", 1)[-1])

    def _show(self, response: httpx.Response) -> Element:
        self.page = pages.parse(response.text)
        if response.is_error:
            said = pages.refusal(self.page) or f"status {response.status_code}"
            raise RefusedError(f"{response.request.method} {response.request.url.path}: {said}")
        self.path = urlsplit(str(response.url)).path
        return self.page
