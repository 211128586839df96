"""What a command is to import, as files on this machine: a file that is there, or those of a data set of the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from app.errors import NotFoundError
from app.services.data import hub


@dataclass(frozen=True)
class Local:
    """Files on this machine, and the name of what they are from."""

    name: str
    files: Sequence[Path]


@contextmanager
def local(source: str, console: Console) -> Iterator[Local]:
    """Yield the files that are meant; what was downloaded for it goes at the end."""
    if not source.startswith(hub.PREFIX):
        path = Path(source)
        if not path.is_file():
            raise NotFoundError(f"There is no file {source}.")
        yield Local(path.name, (path,))
        return
    meant = hub.parse(source)
    columns = (TextColumn("Downloading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with tempfile.TemporaryDirectory() as folder, hub.Hub() as connection:
        chosen = connection.files(meant)
        paths = [Path(folder) / item.path.replace("/", "_") for item in chosen]
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=sum(item.size for item in chosen))
            for item, path in zip(chosen, paths, strict=True):
                connection.download(meant, item, path, lambda size: bar.advance(task, size))
        yield Local(meant.name, paths)
