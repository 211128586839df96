"""Forwards the metrics of one attempt to a tracker: `python -m app.worker.tracker_child mlflow PROJECT RUN_DIR`.

A process of its own, so that a library that hangs, crashes or takes memory costs the run nothing. It follows
`metrics.jsonl` and ends when its standard input does, whose text says how the attempt ended; without any, the
supervisor has died. `tracked.json` keeps the last step forwarded, for the attempt that goes on from a checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.worker import run_folder, trackers
from app.worker.child import trainer_environment
from app.worker.errand import Errand
from app.worker.trackers import TRACKERS, TrackedRun, Tracker
from trainer.config import RunConfig

LOG_FILE = "tracker.log"
STATE_FILE = "tracked.json"
LOCK_FILE = "tracker.lock"
LOOK_SECONDS = 1.0
END_SECONDS = 60.0
NOT_TRACKED = frozenset({"time", "total_steps"})


class Tracking:
    """A started forwarder, as the supervisor sees it; what it does never reaches the run."""

    def __init__(self, tracker: str, project: str, run_dir: Path) -> None:
        with (run_dir / LOG_FILE).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.worker.tracker_child", tracker, project, str(run_dir)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=trainer_environment(),
                start_new_session=True,
                text=True,
            )

    def end(self, outcome: str) -> Errand[None]:
        """Say how the attempt ended, without waiting: it gets a minute to forward the rest, then it is killed."""
        return Errand(lambda: self._let_end(outcome))

    def _let_end(self, outcome: str) -> None:
        try:
            self._process.communicate(outcome, timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(kind: str, project: str, run_dir: Path) -> None:
    """Forward until the standard input ends, after an earlier attempt's forwarder has ended."""
    lock = (run_dir / LOCK_FILE).open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    config = json.loads((run_dir / RunConfig.FILE).read_text(encoding="utf-8"))
    run_id = run_dir.name
    name = f"{config.get('method', 'run')} {run_id[:8]}"
    tracker = TRACKERS[kind](TrackedRun(project, run_id, name, dict(flat(config)), run_dir))
    tail, state = run_folder.MetricsTail(run_dir), run_dir / STATE_FILE
    outcome = None
    while outcome is None:
        if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
            outcome = sys.stdin.read().strip() or trackers.STOPPED
        forward(tracker, tail.read(), state)
    tracker.end(outcome)


def forward(tracker: Tracker, rows: Mapping[int, Mapping[str, Any]], state: Path) -> None:
    """Record the steps that were not recorded before; a resumed attempt repeats those since its checkpoint."""
    last = json.loads(state.read_text())["step"] if state.exists() else -1
    for step, row in sorted(rows.items()):
        if step > last:
            tracker.log(step, {name: value for name, value in row.items() if is_number(name, value)})
            last = step
    aside = state.with_suffix(".partial")
    aside.write_text(json.dumps({"step": last}))
    aside.replace(state)


def is_number(name: str, value: object) -> bool:
    """Whether an entry of a line of metrics is one that a tracker draws."""
    return name not in NOT_TRACKED and isinstance(value, (int, float)) and not isinstance(value, bool)


def flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of a nested mapping by dotted names."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
