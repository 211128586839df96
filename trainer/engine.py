"""The thread of the model server: several answers in turns, one token each, on few models kept in memory.

torch is imported with the first answer, not before: a server that nobody asks costs next to nothing.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from trainer.config import ConfigError, Sampling
from trainer.records import Message

RUNNING, WAITING = 8, 32
"""Answers that take turns, and answers that wait for a place or for their model."""


class Event(NamedTuple):
    """What becomes of an answer: some text, its end (`stop`, `length`), or a sentence why there is none.

    A refusal is about what was asked for, a fault is the server's own.
    """

    kind: Literal["text", "end", "refusal", "fault"]
    text: str


@dataclass(eq=False)
class Job:
    """An answer to be made. `emit` is called from the engine's thread; nobody listens any more once `cancelled`."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int | None
    emit: Callable[[Event], None]
    cancelled: bool = False
    pieces: Iterator[str] | None = field(default=None, repr=False)


class Engine:
    """Makes answers until it is closed. `keep` models stay in memory, those used last."""

    def __init__(self, device: str = "auto", keep: int = 2) -> None:
        self._device = device
        self._keep = keep
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def loaded(self) -> list[str]:
        """The models in memory, the one used last at the end."""
        return list(self._models)

    def submit(self, job: Job) -> bool:
        """Take a job; return False when too many wait already."""
        with self._changed:
            if self._closed or len(self._waiting) >= WAITING:
                return False
            self._waiting.append(job)
            self._changed.notify()
        return True

    def close(self) -> None:
        """End the thread after the token it is at."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
            self._admit()
            for job in list(self._running):
                if not self._step(job):
                    self._running.remove(job)

    def _admit(self) -> None:
        """Let waiting jobs run: in their order, but past those whose model finds no place at the moment."""
        with self._changed:
            candidates = list(self._waiting)
        for job in candidates:
            if not job.cancelled and (len(self._running) >= RUNNING or not self._has_place(job.model)):
                continue
            with self._changed:
                self._waiting.remove(job)
            if not job.cancelled and self._guarded(job, self._begin):
                self._running.append(job)

    def _has_place(self, name: str) -> bool:
        in_use = {job.model for job in self._running}
        return name in self._models or len(in_use) < self._keep

    def _begin(self, job: Job) -> bool:
        streaming = importlib.import_module("trainer.streaming")
        if job.model not in self._models:
            in_use = {running.model for running in self._running}
            while len(self._models) >= self._keep:
                del self._models[next(name for name in self._models if name not in in_use)]
            self._models[job.model] = streaming.load(job.model, self._device)
        self._models.move_to_end(job.model)
        job.pieces = streaming.answer(self._models[job.model], job.messages, job.sampling, job.seed)
        return True

    def _step(self, job: Job) -> bool:
        """Move one answer on by a token; return whether it goes on."""
        return not job.cancelled and self._guarded(job, self._advance)

    def _advance(self, job: Job) -> bool:
        assert job.pieces is not None  # noqa: S101  (`_begin` has set it)
        try:
            text = next(job.pieces)
        except StopIteration as end:
            job.emit(Event("end", end.value))
            return False
        if text:
            job.emit(Event("text", text))
        return True

    def _guarded(self, job: Job, act: Callable[[Job], bool]) -> bool:
        """Act on a job. Whatever one answer dies of, the thread must live on for the others."""
        try:
            return act(job)
        except ConfigError as error:
            job.emit(Event("refusal", str(error)))
        except Exception as error:  # noqa: BLE001  (torch raises many kinds, out of memory among them)
            job.emit(Event("fault", f"{type(error).__name__}: {error}"))
        return False
