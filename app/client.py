"""A small client of the REST API: exports row by row as they come, or to a file.

from app.client import Client

client = Client("https://plackett.example.org", token)
for row in client.rows(project_id, "trl"):
    ...
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import httpx

from app.errors import PlackettError

RETRIES = 3
_TIMEOUT = httpx.Timeout(30, read=300)

Told = Callable[[int], None]
"""Is told how many bytes have come so far."""


class Client:
    """Talks to one server with one token, which needs the scope `export:read`."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT, follow_redirects=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def projects(self) -> list[dict[str, Any]]:
        """Return the projects that the token may see."""
        return list(self._items("/api/v1/projects"))

    def _items(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield what a list holds, page after page."""
        cursor: str | None = None
        while True:
            answer = self._http.get(path, params={"limit": 200} | ({"cursor": cursor} if cursor else {}))
            _check(answer)
            found = answer.json()
            yield from found["items"]
            cursor = found["next"]
            if cursor is None:
                return

    def manifest(self, project_id: UUID | str, format_name: str = "plackett", **filters: Any) -> dict[str, Any]:
        """Return what an export with the same parameters holds, and what its format loses."""
        answer = self._http.get(_path(project_id, "/manifest"), params={"format": format_name, **filters})
        _check(answer)
        found: dict[str, Any] = answer.json()
        return found

    def chunks(self, project_id: UUID | str, format_name: str = "plackett", **filters: Any) -> Iterator[bytes]:
        """Yield an export in pieces as they come. Memory holds one piece."""
        with self._http.stream("GET", _path(project_id), params={"format": format_name, **filters}) as answer:
            if answer.is_error:
                answer.read()
            _check(answer)
            yield from answer.iter_bytes()

    def rows(self, project_id: UUID | str, format_name: str = "plackett", **filters: Any) -> Iterator[dict[str, Any]]:
        """Yield an export of JSON lines as objects. A lossless one that breaks off goes on behind its last line."""
        left = RETRIES if format_name == "plackett" else 0
        while True:
            try:
                for line in _lines(self.chunks(project_id, format_name, **filters)):
                    row: dict[str, Any] = json.loads(line)
                    yield row
                    filters["after"] = row.get("id") if format_name == "plackett" else filters.get("after")
            except httpx.TransportError as error:
                if not left:
                    raise PlackettError(f"The export broke off: {error}. Start it again.") from error
                left -= 1
            else:
                return

    def save(
        self,
        path: Path,
        project_id: UUID | str,
        format_name: str = "plackett",
        *,
        told: Told | None = None,
        **filters: Any,
    ) -> int:
        """Write an export to a file and return its size; the file is there whole or not at all."""
        aside, size = path.with_name(path.name + ".partial"), 0
        try:
            with aside.open("wb") as file:
                for chunk in self.chunks(project_id, format_name, **filters):
                    file.write(chunk)
                    size += len(chunk)
                    if told is not None:
                        told(size)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except httpx.TransportError as error:
            raise PlackettError(f"The export broke off: {error}. Start it again.") from error
        finally:
            aside.unlink(missing_ok=True)
        return size


def _path(project_id: UUID | str, ending: str = "") -> str:
    return f"/api/v1/projects/{project_id}/export{ending}"


def _check(answer: httpx.Response) -> None:
    if answer.is_error:
        try:
            detail = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = f"The server answered {answer.status_code}."
        raise PlackettError(str(detail))


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield whole lines; text after the last line end is half a line and never comes."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
