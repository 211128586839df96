"""How long labelers wait for "saved": from the first byte of a request until Postgres has confirmed its commit.

    VAR/run/latency/<n>        one 64-bit float for each bucket, then the number and the sum of all seconds

Each web process counts in a file of its own, mapped into its memory, so counting costs no statement and any of them
can answer for all on this host. A file is locked by who counts in it; a new process goes on in one that a process
before it has left, so the figures only ever grow.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, count
from pathlib import Path
from threading import Lock

from sqlalchemy.orm import Session

from app.db import after_commit
from app.settings import get_settings

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAYOUT = struct.Struct(f"={len(BOUNDS) + 2}d")

_began: ContextVar[float | None] = ContextVar("request_began", default=None)


@dataclass(frozen=True)
class Histogram:
    """What was counted: `buckets` has, for each of `BOUNDS`, how many took at most so long."""

    buckets: tuple[float, ...]
    number: float
    seconds: float


@contextmanager
def request() -> Iterator[None]:
    """Everything inside belongs to a request that begins now."""
    token = _began.set(time.perf_counter())
    try:
        yield
    finally:
        _began.reset(token)


def note_submit(session: Session) -> None:
    """Count this request's time once its transaction is committed; never if it rolls back."""
    began = _began.get()
    if began is not None:
        after_commit(session, lambda: _counter(get_settings().var).add(time.perf_counter() - began))


def submits() -> Histogram:
    """Return what all web processes of this host have counted."""
    totals = [0.0] * (len(BOUNDS) + 2)
    for path in _folder(get_settings().var).glob("*"):
        found = path.read_bytes()
        if len(found) == _LAYOUT.size:  # else it is just being made
            totals = [a + b for a, b in zip(totals, _LAYOUT.unpack(found), strict=True)]
    *buckets, number, seconds = totals
    return Histogram(tuple(accumulate(buckets)), number, seconds)


class _Counter:
    """The file of this process. The lock on it ends with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = next(found for n in count() if (found := _take(folder / str(n))) is not None)
        if os.fstat(self._descriptor).st_size < _LAYOUT.size:
            os.ftruncate(self._descriptor, _LAYOUT.size)
        self._memory = mmap.mmap(self._descriptor, _LAYOUT.size)
        self._lock = Lock()

    def add(self, seconds: float) -> None:
        with self._lock:
            values = list(_LAYOUT.unpack_from(self._memory))
            place = bisect_left(BOUNDS, seconds)
            if place < len(BOUNDS):
                values[place] += 1
            values[-2] += 1
            values[-1] += seconds
            _LAYOUT.pack_into(self._memory, 0, *values)


def _take(path: Path) -> int | None:
    """Return the file, opened and locked, or None when another process counts in it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@lru_cache(maxsize=1)
def _counter(var: Path) -> _Counter:
    return _Counter(_folder(var))


def _folder(var: Path) -> Path:
    return (var / "run" / "latency").resolve()
