"""A project's rankings as arrays for the statistics: one pass over one moment of the database, compact in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import Row, Select, Text, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.orm import Session

from app.models import Completion, Prompt, Ranking, Task, TaskCompletion, User
from app.services.labeling import answered
from app.services.quality import quarantines
from app.services.quality.statistics.pairs import ABSENT, UNNAMED, RankingTable

BATCH = 2_000
K = 9
REFERENCE = -1


@dataclass(frozen=True)
class Numbered:
    """A ranking table and what its numbers stand for. `labelers` and `tasks` are database ids by number."""

    table: RankingTable
    labelers: list[UUID]
    is_reviewer: list[bool]
    tasks: list[UUID]


def collected(session: Session, project_id: UUID) -> Numbered:
    """Return the labelers' counted rankings of tasks that collect data, without those under quarantine."""
    return _read(
        session,
        _rankings(project_id).where(
            Task.purpose == "collect", Ranking.origin.in_(("task", "chat")), ~quarantines.is_set_aside(Ranking)
        ),
    )


def with_verdicts(session: Session, project_id: UUID) -> Numbered:
    """Return the counted rankings of tasks where a reviewer has ranked or adjudicated, with the reviewer's."""
    by_reviewer = (
        select(Ranking.task_id)
        .join(User, User.id == Ranking.user_id)
        .where(Ranking.project_id == project_id, Ranking.counted, User.role != "labeler")
    )
    return _read(
        session,
        _rankings(project_id).where(
            Task.purpose == "collect", Task.id.in_(by_reviewer), ~quarantines.is_set_aside(Ranking)
        ),
    )


def with_references(session: Session, project_id: UUID) -> Numbered:
    """Return the rankings of gold and trial tasks. The reference is one more ranking, by the last labeler number."""
    return _read(session, _rankings(project_id).where(Task.reference.is_not(None)), references=True)


def _rankings(project_id: UUID) -> Select[Any]:
    ids, lengths = (
        select(func.array_agg(aggregate_order_by(column, TaskCompletion.position)))
        .select_from(TaskCompletion)
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .where(TaskCompletion.task_id == Task.id)
        .correlate(Task)
        .scalar_subquery()
        for column in (
            cast(TaskCompletion.completion_id, Text),
            func.greatest(func.length(Completion.text), 1),  # a length of 0 stands for an answer that is not there
        )
    )
    return (
        select(
            Ranking.task_id,
            Ranking.user_id,
            User.role,
            Ranking.groups,
            cast(Ranking.shown_order, ARRAY(Text)).label("shown"),
            Ranking.seconds,
            Task.prompt_id,
            Task.reference,
            # Only the last turn: what comes before it was read already in a chat, and haste must be beyond doubt.
            func.length(Prompt.messages[-1]["content"].as_string()).label("prompt_length"),
            ids.label("completions"),
            lengths.label("lengths"),
        )
        .join(Task, Task.id == Ranking.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(User, User.id == Ranking.user_id)
        .where(Ranking.project_id == project_id, Ranking.counted, answered.is_latest(Ranking), ~Ranking.retracts)
        .order_by(Ranking.task_id, Ranking.id)
    )


@dataclass
class _Columns:
    """The columns of a ranking table as they grow."""

    task: array[int] = field(default_factory=lambda: array("i"))
    labeler: array[int] = field(default_factory=lambda: array("i"))
    ranks: array[int] = field(default_factory=lambda: array("b"))
    shown: array[int] = field(default_factory=lambda: array("b"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    prompt_of_task: array[int] = field(default_factory=lambda: array("i"))
    lengths: array[int] = field(default_factory=lambda: array("i"))
    prompt_lengths: array[int] = field(default_factory=lambda: array("i"))

    def add_task(self, prompt: int, prompt_length: int, lengths: Iterable[int]) -> None:
        self.prompt_of_task.append(prompt)
        self.prompt_lengths.append(prompt_length)
        self.lengths.extend(_filled(lengths))

    def add_ranking(self, labeler: int, ranks: Iterable[int], shown: Iterable[int], seconds: float) -> None:
        self.task.append(len(self.prompt_of_task) - 1)
        self.labeler.append(labeler)
        self.ranks.extend(_filled(ranks))
        self.shown.extend(_filled(shown))
        self.seconds.append(seconds)

    def table(self, number_of_labelers: int) -> RankingTable:
        # Small tables are the rule: the columns that no task uses are cut off.
        lengths = np.array(self.lengths, dtype=np.int32).reshape(-1, K)
        k = max(2, int((lengths > 0).sum(axis=1).max(initial=0)))
        return RankingTable(
            task=np.array(self.task, dtype=np.int32),
            labeler=np.array(self.labeler, dtype=np.int32),
            ranks=np.array(self.ranks, dtype=np.int8).reshape(-1, K)[:, :k],
            shown=np.array(self.shown, dtype=np.int8).reshape(-1, K)[:, :k],
            seconds=np.array(self.seconds, dtype=np.float64),
            prompt_of_task=np.array(self.prompt_of_task, dtype=np.int32),
            lengths=lengths[:, :k],
            prompt_lengths=np.array(self.prompt_lengths, dtype=np.int32),
            number_of_labelers=number_of_labelers,
        )


def _filled(values: Iterable[int]) -> list[int]:
    listed = list(values)
    return listed + [0] * (K - len(listed))


def _read(session: Session, query: Select[Any], *, references: bool = False) -> Numbered:
    columns = _Columns()
    prompts: dict[UUID, int] = {}
    people: dict[UUID, int] = {}
    reviewers: list[bool] = []
    tasks: list[UUID] = []
    with session.execute(query.execution_options(yield_per=BATCH)) as rows:
        for row in rows:
            if not tasks or tasks[-1] != row.task_id:
                tasks.append(row.task_id)
                columns.add_task(prompts.setdefault(row.prompt_id, len(prompts)), row.prompt_length, row.lengths)
                if references:
                    _add(columns, REFERENCE, row, row.reference, [])
            if row.user_id not in people:
                people[row.user_id] = len(people)
                reviewers.append(row.role != "labeler")
            _add(columns, people[row.user_id], row, row.groups, row.shown)
    if references:  # how many people there are is only known now
        columns.labeler = array("i", (len(people) if one == REFERENCE else one for one in columns.labeler))
    return Numbered(columns.table(len(people) + references), list(people), reviewers, tasks)


def _add(columns: _Columns, labeler: int, row: Row[Any], groups: list[list[str]], shown: list[str]) -> None:
    rank_of = {completion: rank for rank, group in enumerate(groups, start=1) for completion in group}
    place_of = {completion: place for place, completion in enumerate(shown, start=1)}
    columns.add_ranking(
        labeler,
        [rank_of.get(completion, UNNAMED) for completion in row.completions],
        [place_of.get(completion, ABSENT) for completion in row.completions],
        row.seconds,
    )
