"""Files of a data set on the Hugging Face hub, by name: listed, chosen and downloaded, never run.

`hub:owner/name[@revision][:part]` names them. A part is a file, a folder, or a split such as `train`; it may be left
out where the data set has one file of data. Only lines of JSON and Parquet are data: a script that would load them is
not even read. Of the environment, HF_ENDPOINT names another hub and HF_TOKEN is sent to it, and to nobody else.

This is for commands alone: the web process opens no connection that somebody outside has named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urljoin, urlsplit

import httpx

from app.errors import InvalidInputError, NotFoundError, PlackettError
from app.services.data.import_files import MAX_BYTES

PREFIX = "hub:"
PUBLIC = "https://huggingface.co"
ENDINGS = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet")
MOST_FILES = 64
_MOST_LISTED = 10_000
_SHOWN = 10
_MOST_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(30, read=120)
_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,100}))?(?::(?P<part>.{1,300}))?"
)

Told = Callable[[int], None]


@dataclass(frozen=True)
class Source:
    """A data set on the hub at a revision, and the part of it that is meant; an empty one is the only file."""

    name: str
    revision: str
    part: str


@dataclass(frozen=True)
class HubFile:
    """A file of a data set: its path there and its size in bytes."""

    path: str
    size: int


def parse(text: str) -> Source:
    """Return what `hub:owner/name[@revision][:part]` names; raise `InvalidInputError` when it is no such name."""
    found = _NAME.fullmatch(text.removeprefix(PREFIX))
    if found is None or ".." in text:
        raise InvalidInputError(
            "Name a data set of the hub as hub:owner/name, hub:owner/name:train or hub:owner/name@v1:file."
        )
    return Source(found["name"], found["revision"] or "main", found["part"] or "")


class Hub:
    """A connection to the hub; close it with `with`."""

    def __init__(self) -> None:
        self.address = os.environ.get("HF_ENDPOINT", "").rstrip("/") or PUBLIC
        self._token = os.environ.get("HF_TOKEN", "")
        self._http = httpx.Client(timeout=_TIMEOUT, follow_redirects=False)

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def files(self, source: Source) -> Sequence[HubFile]:
        """Return the files of data that are meant, in the order of their names.

        Raises `NotFoundError` for a data set or part that is not there, `InvalidInputError` when the name leaves open
        which are meant or they are too many or too large, `PlackettError` when the hub does not answer.
        """
        data = [item for item in self._listed(source) if item.path.endswith(ENDINGS)]
        if not data:
            raise NotFoundError(
                f"{source.name} holds no lines of JSON and no Parquet; a script that would load its data is not run."
            )
        chosen = sorted((item for item in data if _is_meant(item.path, source.part)), key=lambda item: item.path)
        if not chosen or (not source.part and len(chosen) > 1):
            shown = tuple(item.path for item in data[:_SHOWN])
            why = f"has no part “{source.part}”" if source.part else f"has {len(data)} files of data"
            raise InvalidInputError(
                f"{source.name} {why}. Say which, after a colon; these are the first.", details=shown
            )
        if len(chosen) > MOST_FILES or sum(item.size for item in chosen) > MAX_BYTES:
            raise InvalidInputError(
                f"That is more than {MOST_FILES} files or 4 GiB. Name a smaller part, after a colon."
            )
        return chosen

    def download(self, source: Source, file: HubFile, to: Path, told: Told = lambda _size: None) -> None:
        """Write a file of the data set to a path; raise `PlackettError` when it does not come whole."""
        url = f"{self.address}/datasets/{source.name}/resolve/{quote(source.revision, safe='')}/{quote(file.path)}"
        size = 0
        try:
            for _ in range(_MOST_REDIRECTS):
                with self._http.stream("GET", url, headers=self._headers(url)) as answer, to.open("wb") as opened:
                    if answer.has_redirect_location:
                        url = urljoin(url, answer.headers["location"])
                        continue
                    _check(answer, source)
                    for chunk in answer.iter_bytes():
                        size += len(chunk)
                        if size > file.size:
                            break
                        opened.write(chunk)
                        told(len(chunk))
                break
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if size != file.size:
            raise PlackettError(f"{file.path} did not come as the hub had announced it. Try again.")

    def _listed(self, source: Source) -> list[HubFile]:
        url: str | None = (
            f"{self.address}/api/datasets/{source.name}/tree/{quote(source.revision, safe='')}?recursive=true"
        )
        found: list[HubFile] = []
        while url is not None and len(found) < _MOST_LISTED:
            try:
                answer = self._http.get(url, headers=self._headers(url))
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
            _check(answer, source)
            try:
                rows = [(item["type"], str(item["path"]), int(item["size"])) for item in answer.json()]
            except (ValueError, KeyError, TypeError):
                raise PlackettError(f"What {self.address} answered could not be read; is it a hub?") from None
            found += [HubFile(path, size) for kind, path, size in rows if kind == "file"]
            url = answer.links.get("next", {}).get("url")
        return found

    def _headers(self, url: str) -> dict[str, str]:
        same = urlsplit(url)[:2] == urlsplit(self.address)[:2]
        return {"Accept-Encoding": "identity"} | (
            {"Authorization": f"Bearer {self._token}"} if self._token and same else {}
        )

    def _unreachable(self, error: httpx.HTTPError) -> PlackettError:
        return PlackettError(
            f"The hub {self.address} could not be reached ({type(error).__name__}). Check the network, or download the "
            "file where there is one and import it by its path."
        )


def _is_meant(path: str, part: str) -> bool:
    """Return whether a file is the part, lies in its folder, or is of its split: `train-00000-of-00002`, `x/train`."""
    if not part or path == part or path.startswith(f"{part}/"):
        return True
    place = PurePosixPath(path)
    words = re.split(r"[-._]", place.name) + list(place.parts[:-1])
    return "/" not in part and (part in words or place.name.startswith((f"{part}-", f"{part}.")))


def _check(answer: httpx.Response, source: Source) -> None:
    if answer.status_code in (401, 403):
        raise PlackettError(
            f"The hub does not show {source.name} to everybody. Accept its terms there, and set HF_TOKEN to your token."
        )
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFoundError(f"The hub has no data set {source.name} at {source.revision}.")
    if not answer.is_success:
        raise PlackettError(f"The hub answered {answer.status_code}. Try again later.")
