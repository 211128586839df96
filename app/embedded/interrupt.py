"""Ctrl-C and its relatives: the first one asks for the end, the others change nothing."""

from __future__ import annotations

import signal
from types import FrameType


class StopOnce:
    """From its construction on, the first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt; later ones are ignored.

    A person presses Ctrl-C twice, and `make` sends it to us once more; neither may cut short a stop that is under way.
    Construct it in the main thread.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            raise KeyboardInterrupt
