"""A connection to one server: the API's conventions, whichever resource is asked for.

Lists come page after page, a request whose answer got lost is sent again under the same idempotency key, a refusal is
the server's sentence, and what takes long is waited for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import httpx

from app.errors import InvalidInputError, PlackettError, UnavailableError

RETRIES = 3
_TIMEOUT = httpx.Timeout(30, read=300)
_LOOK_SECONDS = 1.0
_MOST_IN_PAGE = 200

Id = UUID | str


class Found(dict[str, Any]):
    """An object as the server shows it. A change that names its `etag` overwrites nothing that came in between."""

    etag: str = "*"


class StillRunningError(PlackettError):
    """What was waited for has not ended; it goes on all the same."""


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn a server that cannot be reached into a sentence, for the command line."""
    try:
        yield
    except httpx.TransportError:
        raise UnavailableError(f"The server at {url} does not answer: check the address, or try again.") from None


class Connection:
    """Talks to one server with one token."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _get(self, path: str, **params: Any) -> Found:
        """Return an object."""
        return _found(self._again("GET", path, params=params))

    def _items(self, path: str, **filters: Any) -> Iterator[Found]:
        """Yield what a list holds, page after page."""
        wanted = {"limit": _MOST_IN_PAGE} | {name: value for name, value in filters.items() if value is not None}
        while True:
            page = self._get(path, **wanted)
            yield from map(Found, page["items"])
            if page["next"] is None:
                return
            wanted["cursor"] = page["next"]

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """Send a request that is done once, however often it has to be sent."""
        return self._again("POST", path, body, {"Idempotency-Key": str(uuid4())})

    def _made(self, path: str, body: Mapping[str, Any] | None = None) -> Found:
        """Return what a POST has made or changed."""
        return _found(self._post(path, body))

    def _changed(self, method: str, path: str, body: Mapping[str, Any], if_match: str = "*") -> Found:
        """Return what a PATCH or PUT has changed."""
        return _found(self._again(method, path, body, {"If-Match": if_match}))

    def _again(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """Send a request that may be sent twice, and again when no answer comes."""
        content = None if body is None else json.dumps(body, default=str)
        sent = {} if body is None else {"Content-Type": "application/json"}
        for left in reversed(range(RETRIES + 1)):
            try:
                answer = self._http.request(
                    method, path, content=content, headers=sent | dict(headers or {}), params=params
                )
            except httpx.TransportError:
                if not left:
                    raise
            else:
                check(answer)
                return answer
        raise AssertionError("the last attempt answers or raises")

    def _over(self, look: Callable[[], Found], what: str, ends: tuple[str, ...], seconds: float) -> Found:
        """Look again and again until the state is one of `ends`; raise `StillRunningError` after so many seconds."""
        give_up = time.monotonic() + seconds
        while (found := look())["state"] not in ends:
            if time.monotonic() + _LOOK_SECONDS > give_up:
                raise StillRunningError(
                    f"The {what} {found['id']} is still {found['state']} after {seconds:,.0f} seconds. It goes on; "
                    "wait for it again, or longer."
                )
            time.sleep(_LOOK_SECONDS)
        return found


def check(answer: httpx.Response) -> None:
    """Raise what the server refused as an error with its sentence; a refusal of a file names its lines."""
    if answer.is_error:
        try:
            problem = answer.json()
            detail, details = str(problem["detail"]), tuple(problem.get("details", ()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PlackettError(f"The server answered {answer.status_code}.") from None
        error = InvalidInputError(detail, details=details) if details else PlackettError(detail)
        error.status = HTTPStatus(answer.status_code)
        raise error


def _found(answer: httpx.Response) -> Found:
    found = Found(answer.json())
    found.etag = answer.headers.get("ETag", "*")
    return found
