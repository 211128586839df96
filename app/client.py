"""A small client of the REST API: exports row by row as they come, to a file or as a table; files sent in pieces.

from app.client import Client

client = Client("https://plackett.example.org", token)
for row in client.rows(project_id, "trl"):
    ...
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import httpx

from app.errors import InvalidInputError, PlackettError, UnavailableError

RETRIES = 3
PIECE_BYTES = 8 << 20
_TIMEOUT = httpx.Timeout(30, read=300)
_LOOK_SECONDS = 1.0

Told = Callable[[int], None]
"""Is told how many bytes have come so far."""


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn a server that cannot be reached into a sentence, for the command line."""
    try:
        yield
    except httpx.TransportError:
        raise UnavailableError(f"The server at {url} does not answer: check the address, or try again.") from None


class Client:
    """Talks to one server with one token, which needs the scope `export:read`, or `import:write` to send files."""

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

    def dataset(
        self, project_id: UUID | str, format_name: str = "trl", *, progress: bool = False, **filters: Any
    ) -> Any:
        """Return an export as a `datasets.Dataset`, which lies on disk and not in memory."""
        datasets = importlib.import_module("datasets")
        with self._file(project_id, format_name, progress, filters) as path:
            return datasets.Dataset.from_json(str(path))

    def pandas(
        self, project_id: UUID | str, format_name: str = "trl", *, progress: bool = False, **filters: Any
    ) -> Any:
        """Return an export as a pandas `DataFrame`. It is all in memory: narrow it with filters."""
        pandas = importlib.import_module("pandas")
        with self._file(project_id, format_name, progress, filters) as path, path.open(encoding="utf-8") as lines:
            # Not `read_json`, which makes dates of what looks like some.
            return pandas.DataFrame.from_records(json.loads(line) for line in lines)

    def polars(
        self, project_id: UUID | str, format_name: str = "trl", *, progress: bool = False, **filters: Any
    ) -> Any:
        """Return an export as a polars `DataFrame`. It is all in memory: narrow it with filters."""
        polars = importlib.import_module("polars")
        with self._file(project_id, format_name, progress, filters) as path:
            return polars.read_ndjson(path, infer_schema_length=None)

    @contextmanager
    def _file(
        self, project_id: UUID | str, format_name: str, progress: bool, filters: dict[str, Any]
    ) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "export.jsonl"
            with _bar("Exporting", shown=progress) as told:
                self.save(path, project_id, format_name, told=told, **filters)
            yield path

    def upload(
        self,
        project_id: UUID | str,
        path: Path,
        format_name: str,
        dataset: str,
        *,
        judge: str | None = None,
        progress: bool = False,
    ) -> dict[str, Any]:
        """Send a file in pieces, import it, and return the report. A connection that breaks costs one piece."""
        where = self.send(project_id, path, progress=progress)
        return self.import_sent(where, format_name, dataset, judge=judge)

    def send(self, project_id: UUID | str, path: Path, *, progress: bool = False) -> str:
        """Send a file in pieces and return where it lies on the server, for `import_sent` or `forget`."""
        size = path.stat().st_size
        begun = self._http.post(f"/api/v1/projects/{project_id}/uploads", headers={"Upload-Length": str(size)})
        _check(begun)
        where = begun.headers["Location"]
        with path.open("rb") as file, _bar("Sending", shown=progress, total=size) as told:
            sent, left = 0, RETRIES
            while sent < size:
                file.seek(sent)
                try:
                    sent = self._send(where, sent, file.read(PIECE_BYTES))
                    left = RETRIES
                except httpx.TransportError as error:
                    if not left:
                        raise PlackettError(f"Sending the file broke off: {error}. Start it again.") from error
                    left -= 1
                    sent = self._offset(where, sent)
                told(sent)
        return str(where)

    def import_sent(self, where: str, format_name: str, dataset: str, *, judge: str | None = None) -> dict[str, Any]:
        """Import a file that was sent and return the report; a refusal names its lines in `details`."""
        asked = {"format": format_name, "dataset": dataset, **({"judge": judge} if judge else {})}
        answer = self._http.post(f"{where}/import", params=asked, timeout=None)
        _check(answer)
        if answer.status_code == HTTPStatus.ACCEPTED:
            return self.outcome(answer.headers["Location"])
        report: dict[str, Any] = answer.json()
        return report

    def outcome(self, job: str) -> dict[str, Any]:
        """Wait for the end of a job and return its result; a refusal names its lines in `details`."""
        while True:
            answer = self._http.get(job)
            _check(answer)
            found = answer.json()
            if found["state"] == "succeeded":
                result: dict[str, Any] = found["result"]
                return result
            if found["state"] == "failed":
                raise InvalidInputError(str(found["reason"]), details=tuple(found["details"]))
            time.sleep(_LOOK_SECONDS)

    def forget(self, where: str) -> None:
        """Delete a file that was sent and not imported."""
        _check(self._http.delete(where))

    def _send(self, where: str, offset: int, piece: bytes) -> int:
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        answer = self._http.patch(where, content=piece, headers=headers)
        if answer.status_code == HTTPStatus.CONFLICT:  # its answer got lost, and it is there
            return self._offset(where, offset)
        _check(answer)
        return int(answer.headers["Upload-Offset"])

    def _offset(self, where: str, known: int) -> int:
        try:
            answer = self._http.head(where)
        except httpx.TransportError:
            return known
        _check(answer)
        return int(answer.headers["Upload-Offset"])


@contextmanager
def _bar(what: str, *, shown: bool, total: int | None = None) -> Iterator[Told]:
    """Yield what tells a progress bar how many bytes there are by now; without a bar it tells nobody."""
    if not shown:
        yield lambda _size: None
        return
    progress = importlib.import_module("rich.progress")
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn(),
               progress.TransferSpeedColumn())  # fmt: skip
    with progress.Progress(*columns, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.update(task, completed=size)


def _path(project_id: UUID | str, ending: str = "") -> str:
    return f"/api/v1/projects/{project_id}/export{ending}"


def _check(answer: httpx.Response) -> None:
    if answer.is_error:
        try:
            problem = answer.json()
            detail, details = str(problem["detail"]), tuple(problem.get("details", ()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PlackettError(f"The server answered {answer.status_code}.") from None
        raise InvalidInputError(detail, details=details) if details else PlackettError(detail)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield whole lines; text after the last line end is half a line and never comes."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
