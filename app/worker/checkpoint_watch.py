"""Watches a run directory for new checkpoints: each is verified, published if there is a store, and then reported.

Reading, hashing and sending gigabytes takes longer than a heartbeat may wait, so it happens in a thread of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Lock

from app.services.training.run_states import NewCheckpoint
from app.worker.errand import Errand
from trainer.jsonl import RecordError
from trainer.manifest import file_sha256, verify_manifest

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


class CheckpointWatch:
    """Looks until `finish`. `known` are checkpoints that are registered already, by step and manifest."""

    def __init__(
        self,
        folder: Path,
        known: Iterable[NewCheckpoint],
        publish: Callable[[Path, str], str] = lambda path, _: str(path),
    ) -> None:
        self._folder = folder / "checkpoints"
        self._known = {(one.step, one.manifest_sha256) for one in known}
        self._done: set[tuple[str, int]] = set()
        self._publish = publish
        self._found: list[NewCheckpoint] = []
        self._lock = Lock()
        self._ending = Event()
        self._errand = Errand(self._look_on)

    def take(self) -> list[NewCheckpoint]:
        """Return what is ready to be registered; whoever cannot register it brings it back."""
        with self._lock:
            found, self._found = self._found, []
        return found

    def bring_back(self, found: list[NewCheckpoint]) -> None:
        """Keep what could not be registered for the next time."""
        with self._lock:
            self._found = found + self._found

    def finish(self) -> None:
        """Look once more, now that the trainer is gone, and end."""
        self._ending.set()
        self._errand.settle()

    def _look_on(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        for path in sorted(self._folder.glob("step_*")):
            try:
                # A resumed trainer replaces the folder of a step it does again: another inode is another checkpoint.
                seen = path.name, path.stat().st_ino
                if seen in self._done:
                    continue
                verify_manifest(path)
                digest = file_sha256(path / "manifest.json")
                step = int(path.name.removeprefix("step_"))
                if (step, digest) not in self._known:
                    found = NewCheckpoint(step, self._publish(path, digest), digest)
                    with self._lock:
                        self._found.append(found)
                self._done.add(seen)
            except (RecordError, OSError, ValueError) as error:
                # The trainer keeps the last two, so an old one may vanish under our eyes; a damaged one is its to skip.
                logger.warning("checkpoint %s is not registered: %s", path, error)
