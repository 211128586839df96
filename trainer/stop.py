"""Stopping on request: SIGTERM and SIGINT set a flag that a method reads between two steps. Standard library only."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """A context in which SIGTERM and SIGINT only set `requested`, so that a step is never cut in half.

    The method that sees the flag saves a checkpoint and returns `records.EXIT_STOPPED`. A second signal changes
    nothing; whoever cannot wait sends SIGKILL and loses the steps since the last checkpoint.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False
        self._previous: list[Any] = []

    def __enter__(self) -> StopSignal:
        self._previous = [signal.signal(number, self._request) for number in self.SIGNALS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in zip(self.SIGNALS, self._previous, strict=True):
            signal.signal(number, previous)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
