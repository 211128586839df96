"""What the demo shows while it works: a bar for the step at hand, a bar for the whole, and the time left of both.

Without a terminal there are no bars, only a line for each finished step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from app.demo.plan import SECONDS

_LEAST_WEIGHT = 20.0  # before so much is done, the pace of this machine is not known


class Step:
    """One step: `update` moves its bar, `result` is the sentence that its line will end with."""

    def __init__(self, story: Story, key: str, task: TaskID) -> None:
        self._story, self._key, self._task = story, key, task
        self._started = time.monotonic()
        self.result = ""

    def update(self, done: int, total: int | None, words: str | None = None) -> None:
        """Say how far the step is; `total` None means that it is not known yet. `words` stand in place of the count."""
        left = ""
        if total and done:
            left = spoken(self.seconds * (total - done) / done)
        count = words if words is not None else f"{done}/{total}" if total else ""
        self._story.move(self._key, self._task, done, total, count, left)

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started


class Story:
    """All steps, in order, `expected` to take so many seconds each; `seconds` tells afterwards how long each took."""

    def __init__(self, console: Console, expected: Mapping[str, float] = SECONDS) -> None:
        self.seconds: dict[str, float] = {}
        self._expected = expected
        self._console = console
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]:>9}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._whole = self._progress.add_task("The whole demo", total=sum(expected.values()), count="", left="")

    def __enter__(self) -> Story:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away; what is printed afterwards stands below the last line."""
        self._progress.stop()

    @contextmanager
    def step(self, key: str, title: str) -> Iterator[Step]:
        """Show a bar while the block runs, and a line with the step's result when it is done."""
        task = self._progress.add_task(title, total=None, count="", left="")
        step = Step(self, key, task)
        try:
            yield step
        finally:
            self._progress.remove_task(task)
        self.seconds[key] = step.seconds
        self._show_whole(self._weight_done())
        self._console.print(f"[green]✓[/green] {title} [dim]({step.seconds:.0f} s)[/dim]  {step.result}")

    def move(self, key: str, task: TaskID, done: int, total: int | None, count: str, left: str) -> None:
        """Move the bar of a step, and the bar of the whole with it."""
        self._progress.update(task, completed=done, total=total, count=count, left=left)
        self._show_whole(self._weight_done() + (self._expected[key] * done / total if total else 0.0))

    def _weight_done(self) -> float:
        return float(sum(self._expected[key] for key in self.seconds))

    def _show_whole(self, weight: float) -> None:
        total = sum(self._expected.values())
        elapsed = time.monotonic() - self._started
        pace = elapsed / weight if weight > _LEAST_WEIGHT else 1.0
        self._progress.update(self._whole, completed=int(weight), left=spoken(pace * (total - weight)))


def spoken(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {seconds / 60:.0f} min left"
