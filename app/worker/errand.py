"""One piece of work beside the supervisor's loop, which must never wait for a disk, a network or a silent database."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Errand(Thread, Generic[T]):
    """Calls `work` in a thread of its own, at once. An errand that never comes back does not hold up the exit."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._context = copy_context()  # so that its log lines name the run as well
        self._result: T | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Do the work and keep what came of it."""
        try:
            self._result = self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001 # raised again by `settle`, in the thread that asked
            self._error = error

    def settle(self) -> T:
        """Wait for the end and return the result, or raise what the work raised."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # None only where T allows it
