"""What the rankings of a blind evaluation say: the win rate of the candidate, with an interval that allows peeking.

A prompt is one observation: the mean over its labelers of 1 for a win of the candidate, one half for a tie, 0 for a
loss. It counts once all of them have answered, so that the outcome does not decide when it is looked at. Prompts to
which both gave the same answer are ties that are known beforehand: the test is about the others, and the win rate over
all prompts mixes them in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import BlindEvaluation, Completion, Ranking, Task, TaskCompletion
from app.services.evaluation import sequential
from app.services.labeling import standing

MOST_POINTS = 48


@dataclass(frozen=True)
class Figures:
    """What is known of an evaluation. `win_rate` and its interval are over all prompts, with equal answers as ties.

    `judged` prompts are settled by labelers, `waiting` are not yet; `rankings` were given by `labelers` people, `ties`
    of them ties, `simulated` of them by simulated labelers.
    """

    win_rate: float
    low: float
    high: float
    verdict: str
    judged: int
    waiting: int
    rankings: int
    ties: int
    labelers: int
    simulated: int


@dataclass(frozen=True)
class Point:
    """The win rate and its interval when so many prompts were judged."""

    judged: int
    win_rate: float
    low: float
    high: float


@dataclass(frozen=True)
class _Outcome:
    """One labeler's word on one prompt: 1 for the candidate, one half for a tie, 0 against it."""

    task_id: UUID
    user_id: UUID
    value: float
    is_simulated: bool
    at: datetime


def known(session: Session, evaluation: BlindEvaluation) -> Figures:
    """Return the figures that an evaluation stopped with, or those of this moment while it goes on."""
    return Figures(**evaluation.figures) if evaluation.state == "stopped" else of(session, evaluation)


def of(session: Session, evaluation: BlindEvaluation) -> Figures:
    """Return what the answers that are in say now."""
    outcomes = _outcomes(session, evaluation)
    observed = _observations(outcomes, evaluation.overlap)
    differing = evaluation.prompts - evaluation.identical
    found = sequential.interval(observed)
    verdict = "better" if found.low > 0.5 else "worse" if found.high < 0.5 else "undecided"
    value, low, high = (_overall(evaluation, number) for number in (found.value, found.low, found.high))
    return Figures(
        win_rate=value,
        low=low,
        high=high,
        verdict=verdict,
        judged=len(observed),
        waiting=differing - len(observed),
        rankings=len(outcomes),
        ties=sum(outcome.value == 0.5 for outcome in outcomes),
        labelers=len({outcome.user_id for outcome in outcomes}),
        simulated=sum(outcome.is_simulated for outcome in outcomes),
    )


def course(session: Session, evaluation: BlindEvaluation) -> list[Point]:
    """Return how win rate and interval went as prompts were judged, in at most so many points."""
    observed = _observations(_outcomes(session, evaluation), evaluation.overlap)
    stride = max(1, -(-len(observed) // MOST_POINTS))
    places = sorted({*range(stride, len(observed) + 1, stride), len(observed)} - {0})
    points = []
    for place in places:
        found = sequential.interval(observed[:place])
        points.append(Point(place, *(_overall(evaluation, number) for number in (found.value, found.low, found.high))))
    return points


def preference(groups: Sequence[Sequence[str]], first: str, second: str) -> float | None:
    """Return 1 when a ranking puts the first answer above the second, 0 below, one half for a tie.

    An answer that is not named stands below all that are; of two that are not named nothing is said.
    """
    rank_of = {completion: rank for rank, group in enumerate(groups) for completion in group}
    if first not in rank_of and second not in rank_of:
        return None
    a, b = (rank_of.get(item, len(groups)) for item in (first, second))
    return 1.0 if a < b else 0.0 if a > b else 0.5


def _overall(evaluation: BlindEvaluation, of_differing: float) -> float:
    same = evaluation.identical / evaluation.prompts
    return 0.5 * same + (1 - same) * of_differing


def _outcomes(session: Session, evaluation: BlindEvaluation) -> list[_Outcome]:
    ours = _answer_of(evaluation.candidate_id)
    theirs = _answer_of(evaluation.incumbent_id)
    rows = session.execute(
        select(Ranking.task_id, Ranking.user_id, Ranking.groups, Ranking.is_simulated, Ranking.created_at, ours, theirs)
        .join(Task, Task.id == Ranking.task_id)
        .where(Task.evaluation_id == evaluation.id, *standing.rankings("evaluation"))
        .order_by(Ranking.created_at, Ranking.id)
    )
    return list(_read(rows))


def _answer_of(model_id: UUID) -> Any:
    return (
        select(TaskCompletion.completion_id)
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .where(TaskCompletion.task_id == Task.id, Completion.model_version_id == model_id)
        .correlate(Task)
        .scalar_subquery()
    )


def _read(rows: Iterable[Any]) -> Iterable[_Outcome]:
    for task_id, user_id, groups, is_simulated, at, ours, theirs in rows:
        value = preference(groups, str(ours), str(theirs))
        if value is not None:
            yield _Outcome(task_id, user_id, value, is_simulated, at)


def _observations(outcomes: Sequence[_Outcome], overlap: int) -> list[float]:
    """Return the mean of each prompt that all its labelers have judged, in the order in which they were complete."""
    by_task: dict[UUID, list[_Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_task[outcome.task_id].append(outcome)
    complete = [found for found in by_task.values() if len(found) >= overlap]
    complete.sort(key=lambda found: (max(outcome.at for outcome in found), found[0].task_id))
    return [sum(outcome.value for outcome in found) / len(found) for found in complete]
