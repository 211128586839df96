"""Parquet files as streams: lines of JSON in and out of the child process, which alone loads pyarrow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO

from app.errors import InvalidInputError
from app.services.data.parquet.columns import COLUMNS

MAGIC = b"PAR1"
MEDIA_TYPE = "application/vnd.apache.parquet"
MISSING = "This server cannot handle Parquet: its optional part is not installed (pip install 'plackett[parquet]')."
_PIECE = 1 << 16
_SAID = 4096


class UnreadableError(Exception):
    """The file cannot be read; the text says why."""


def require(format_name: str) -> None:
    """Raise `InvalidInputError` unless this format can be written as Parquet here."""
    if format_name not in COLUMNS:
        raise InvalidInputError(
            f"The format {format_name} has no columns of one type, and so no Parquet form; {', '.join(COLUMNS)} have."
        )
    if importlib.util.find_spec("pyarrow") is None:
        raise InvalidInputError(MISSING)


@contextmanager
def rows(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield the rows of a Parquet file as a stream of JSON lines; raise `UnreadableError` when it cannot be read.

    The error comes at the end of the block: what was read before it must not be kept.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UnreadableError(MISSING)
    file.seek(0)
    with tempfile.TemporaryFile() as said, _child("read", "-", file, said) as child:
        assert child.stdout is not None  # noqa: S101  (it is a pipe)
        yield child.stdout  # type: ignore[misc]  # a pipe of bytes
        if child.stdout.read(1):
            return  # Who reads has seen enough, and the rest is not wanted.
        status = child.wait()
        if status:
            said.seek(0)
            words = said.read(_SAID).decode("utf-8", errors="replace").strip().splitlines()
            expected = status > 0 and words
            raise UnreadableError(
                words[-1] if expected else "Reading this Parquet file took more memory or time than is allowed."
            )


def written(format_name: str, lines: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """Yield the Parquet file of these lines of JSON, in pieces as they come. Memory holds a piece on either side."""
    try:
        with tempfile.TemporaryFile() as said, _child("write", format_name, subprocess.PIPE, said) as child:
            assert child.stdin is not None  # noqa: S101  (both are pipes)
            assert child.stdout is not None  # noqa: S101
            feeder = _Feeder(lines, child.stdin)
            feeder.start()
            try:
                while piece := child.stdout.read1(_PIECE):  # type: ignore[attr-defined]  # a buffered reader
                    yield piece
                if child.wait():
                    said.seek(0)
                    raise RuntimeError(f"writing Parquet failed: {said.read(_SAID).decode(errors='replace')}")
            finally:
                child.kill()
                feeder.join()
            if feeder.failure is not None:
                raise feeder.failure
    finally:
        lines.close()


class _Feeder(threading.Thread):
    """Hands the lines to the child while its other end is read. What fails here is raised by who reads."""

    def __init__(self, lines: Iterator[bytes], pipe: IO[bytes]) -> None:
        super().__init__(name="parquet", daemon=True)
        self._lines, self._pipe = lines, pipe
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Write all lines and close the pipe; a child that has gone is no failure of ours."""
        try:
            for chunk in self._lines:
                self._pipe.write(chunk)
            self._pipe.close()
        except BrokenPipeError:
            pass
        except BaseException as error:  # noqa: BLE001  (it is raised again, in the thread that reads)
            self.failure = error


@contextmanager
def _child(mode: str, name: str, source: BinaryIO | int, said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "app.services.data.parquet.child", mode, name]
    child = subprocess.Popen(
        command, stdin=source if isinstance(source, int) else source.fileno(), stdout=subprocess.PIPE, stderr=said
    )
    try:
        yield child
    finally:
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        child.wait()
