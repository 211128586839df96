"""The client: exports row by row as they come, to a file or as a table; files sent in pieces."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from app.client.connection import RETRIES, Found, Id, check
from app.client.resources import API, WAIT_SECONDS, Resources
from app.errors import PlackettError

PIECE_BYTES = 8 << 20

Told = Callable[[int], None]
"""Is told how many bytes have come so far."""


class Client(Resources):
    """Talks to one server with one token, whose scopes say what it may do: `export:read` to export, for one."""

    def manifest(self, project_id: Id, format_name: str = "plackett", **filters: Any) -> Found:
        """Return what an export with the same parameters holds, and what its format loses."""
        return self._get(_path(project_id, "/manifest"), format=format_name, **filters)

    def chunks(self, project_id: Id, format_name: str = "plackett", **filters: Any) -> Iterator[bytes]:
        """Yield an export in pieces as they come. Memory holds one piece."""
        with self._http.stream("GET", _path(project_id), params={"format": format_name, **filters}) as answer:
            if answer.is_error:
                answer.read()
            check(answer)
            yield from answer.iter_bytes()

    def rows(self, project_id: Id, format_name: str = "plackett", **filters: Any) -> Iterator[dict[str, Any]]:
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
        project_id: Id,
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

    def dataset(self, project_id: Id, format_name: str = "trl", *, progress: bool = False, **filters: Any) -> Any:
        """Return an export as a `datasets.Dataset`, which lies on disk and not in memory."""
        datasets = importlib.import_module("datasets")
        with self._file(project_id, format_name, progress, filters) as path:
            return datasets.Dataset.from_json(str(path))

    def pandas(self, project_id: Id, format_name: str = "trl", *, progress: bool = False, **filters: Any) -> Any:
        """Return an export as a pandas `DataFrame`. It is all in memory: narrow it with filters."""
        pandas = importlib.import_module("pandas")
        with self._file(project_id, format_name, progress, filters) as path, path.open(encoding="utf-8") as lines:
            # Not `read_json`, which makes dates of what looks like some.
            return pandas.DataFrame.from_records(json.loads(line) for line in lines)

    def polars(self, project_id: Id, format_name: str = "trl", *, progress: bool = False, **filters: Any) -> Any:
        """Return an export as a polars `DataFrame`. It is all in memory: narrow it with filters."""
        polars = importlib.import_module("polars")
        with self._file(project_id, format_name, progress, filters) as path:
            return polars.read_ndjson(path, infer_schema_length=None)

    @contextmanager
    def _file(self, project_id: Id, format_name: str, progress: bool, filters: dict[str, Any]) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "export.jsonl"
            with _bar("Exporting", shown=progress) as told:
                self.save(path, project_id, format_name, told=told, **filters)
            yield path

    def upload(
        self,
        project_id: Id,
        path: Path,
        format_name: str,
        dataset: str,
        *,
        judge: str | None = None,
        progress: bool = False,
        seconds: float = WAIT_SECONDS,
    ) -> dict[str, Any]:
        """Send a file in pieces, import it, and return the report. A connection that breaks costs one piece.

        A large file is imported by a worker, which is waited for so long as `outcome` says.
        """
        where = self.send(project_id, path, progress=progress)
        return self.import_sent(where, format_name, dataset, judge=judge, seconds=seconds)

    def send(self, project_id: Id, path: Path, *, progress: bool = False) -> str:
        """Send a file in pieces and return where it lies on the server, for `import_sent` or `forget`."""
        size = path.stat().st_size
        begun = self._http.post(f"{API}/projects/{project_id}/uploads", headers={"Upload-Length": str(size)})
        check(begun)
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

    def import_sent(
        self,
        where: str,
        format_name: str,
        dataset: str,
        *,
        judge: str | None = None,
        seconds: float = WAIT_SECONDS,
    ) -> dict[str, Any]:
        """Import a file that was sent and return the report; a refusal names its lines in `details`."""
        asked = {"format": format_name, "dataset": dataset, **({"judge": judge} if judge else {})}
        answer = self._http.post(f"{where}/import", params=asked, timeout=None)
        check(answer)
        report: dict[str, Any] = answer.json()
        return self.outcome(report["id"], seconds=seconds) if answer.status_code == HTTPStatus.ACCEPTED else report

    def forget(self, where: str) -> None:
        """Delete a file that was sent and not imported."""
        check(self._http.delete(where))

    def _send(self, where: str, offset: int, piece: bytes) -> int:
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        answer = self._http.patch(where, content=piece, headers=headers)
        if answer.status_code == HTTPStatus.CONFLICT:  # its answer got lost, and it is there
            return self._offset(where, offset)
        check(answer)
        return int(answer.headers["Upload-Offset"])

    def _offset(self, where: str, known: int) -> int:
        try:
            answer = self._http.head(where)
        except httpx.TransportError:
            return known
        check(answer)
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


def _path(project_id: Id, ending: str = "") -> str:
    return f"{API}/projects/{project_id}/export{ending}"


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield whole lines; text after the last line end is half a line and never comes."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
