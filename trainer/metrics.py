"""The figures of a run while it works: `metrics.jsonl`, and the same for TensorBoard. Standard library only.

metrics.jsonl               {"step", "time", …numbers…}, appended and flushed
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from trainer.jsonl import read_jsonl
from trainer.tensorboard import EventFile


class MetricsFile:
    """Appends to `metrics.jsonl`, one flushed line a step, so that a reader always sees whole lines.

    The same numbers go into a TensorBoard event file beside it, which begins with what an earlier attempt has left.
    """

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / "metrics.jsonl"
        self._file = path.open("a", encoding="utf-8")
        self._events = EventFile(run_dir, (row for _, row in read_jsonl(path)), time.time())

    def write(self, step: int, **values: float | int | str | None) -> None:
        """Append one line: the step, the time (Unix seconds) and the values."""
        row = {"step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._events.add(row)

    def close(self) -> None:
        """Close the files; also done at the end of a `with` block."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
