"""The simulated labelers at work: each in a browser of its own, through the forms that people use.

They take turns, one task each, so that who does what does not depend on how fast the machine is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from app.demo import pages
from app.demo.browser import Browser
from app.demo.pages import PageError, TaskPage
from app.demo.preference import SimulatedLabeler, rank
from app.errors import SetupError


@dataclass(frozen=True)
class Worker:
    """A simulated labeler and the browser it is signed in with."""

    labeler: SimulatedLabeler
    browser: Browser


Answer = Callable[[Worker, TaskPage], dict[str, str]]
"""What a worker fills in on a task's form."""


def rank_all(workers: Sequence[Worker], project_id: UUID, seed: int) -> Iterator[int]:
    """Have every worker rank every task that is open to it; yield the number of rankings after each one."""
    return _in_turns(workers, project_id, "ranking", lambda worker, task: _ranks(worker, task, seed))


def write_all(workers: Sequence[Worker], project_id: UUID, written: Mapping[str, str]) -> Iterator[int]:
    """Have the workers enter the demonstrations, kept in `written` by question; yield the number after each one."""

    def answer(_worker: Worker, task: TaskPage) -> dict[str, str]:
        if task.question not in written:
            raise SetupError(f"The demo keeps no demonstration for the prompt {task.question!r}.")
        return {"text": written[task.question]}

    return _in_turns(workers, project_id, "demonstration", answer)


def _ranks(worker: Worker, task: TaskPage, seed: int) -> dict[str, str]:
    letters = sorted(task.answers)
    groups = rank(task.question, [task.answers[letter] for letter in letters], worker.labeler, seed)
    return {f"rank_{letters[index]}": str(place) for place, group in enumerate(groups, start=1) for index in group}


def _in_turns(workers: Sequence[Worker], project_id: UUID, kind: str, answer: Answer) -> Iterator[int]:
    busy = [worker for worker in workers if _take_first(worker.browser, project_id, kind)]
    done = 0
    while busy:
        for worker in list(busy):
            task = pages.task(worker.browser.page)
            worker.browser.submit(task.form, answer(worker, task))
            done += 1
            yield done
            if not _at_task(worker.browser):
                busy.remove(worker)


def _take_first(browser: Browser, project_id: UUID, kind: str) -> bool:
    """Open the work page and press the button for this kind of task; return whether a task is open afterwards."""
    browser.open("/work")
    try:
        start = browser.form(f"/work/{project_id}/next", kind=kind)
    except PageError:
        return False  # there is no button: nothing of this kind waits
    browser.submit(start)
    return _at_task(browser)


def _at_task(browser: Browser) -> bool:
    return browser.path.startswith("/work/assignments/")
