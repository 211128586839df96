"""All policies of a project in one table: Elo from every head-to-head that people judged, and from the reward model's.

People: every ranking that counts in which answers of two policies stand beside each other, blind evaluations and
ordinary tasks alike; a ranking of K answers gives all its pairs between different policies. The reward model: the
answers of the newest evaluation runs that the same reward model has scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from app.models import Completion, ModelVersion, Ranking, Run, Task, TaskCompletion
from app.services.evaluation import bradley_terry, length_control
from app.services.evaluation.blind_figures import preference
from app.services.evaluation.bradley_terry import Meeting, Strength
from app.services.evaluation.length_control import Controlled, Outcome
from app.services.labeling import standing
from app.settings import get_settings
from trainer.jsonl import RecordError
from trainer.records import Sample, read_samples

MOST_RANKINGS = 20_000
"""Rankings looked at, the newest first, so that the page of a large project stays quick."""

MOST_RUNS = 12


@dataclass(frozen=True)
class Encounter:
    """One judge's word on two answers of different policies to one prompt; `longer` is by how many characters."""

    prompt: str
    first: UUID
    second: UUID
    outcome: float
    longer: float


@dataclass(frozen=True)
class Row:
    """One policy: its Elo, and its win rate over all others as it is and as it would be at equal length."""

    model: ModelVersion
    strength: Strength
    win_rate: float
    controlled: Controlled


@dataclass(frozen=True)
class Table:
    """The policies that met another, the strongest first. `anchor` is the oldest of them, whose Elo is 0.

    `unread` runs could not be read here, as their files are elsewhere or gone.
    """

    rows: Sequence[Row]
    anchor: str
    encounters: int
    prompts: int
    unread: int = 0
    judge: str = ""


def of_people(session: Session, project_id: UUID) -> Table:
    """Return the table from what people have said."""
    return _table(session, list(_by_people(session, project_id)))


def of_reward_model(session: Session, project_id: UUID) -> Table:
    """Return the table from what the reward model used last says of the answers in the newest evaluation runs."""
    runs = session.scalars(
        select(Run)
        .where(
            Run.project_id == project_id,
            Run.method == "evaluate",
            Run.state == "succeeded",
            Run.inputs["reward_model"].as_string().is_not(None),
        )
        .order_by(Run.id.desc())
        .limit(MOST_RUNS)
    ).all()
    if not runs:
        return _table(session, [])
    judge = runs[0].inputs["reward_model"]
    found: list[Encounter] = []
    unread = 0
    for run in runs:
        if run.inputs["reward_model"] != judge:
            continue
        try:
            samples = read_samples(get_settings().runs_dir / str(run.id) / "samples.jsonl")
        except (OSError, RecordError):
            unread += 1
            continue
        found += _by_rewards(run, samples)
    name = session.scalar(select(ModelVersion.name).where(ModelVersion.id == UUID(judge)))
    return _table(session, found, unread, name or "")


def as_json(table: Table) -> dict[str, Any]:
    """Return a table as programs read it."""
    return {
        "anchor": table.anchor or None,
        "judge": table.judge or None,
        "encounters": table.encounters,
        "prompts": table.prompts,
        "unread_runs": table.unread,
        "policies": [
            {
                "id": str(row.model.id),
                "name": row.model.name,
                "state": row.model.state,
                "elo": round(row.strength.elo, 1),
                "elo_interval": [round(row.strength.low, 1), round(row.strength.high, 1)],
                "encounters": row.strength.meetings,
                "win_rate": round(row.win_rate, 4),
                "length_controlled_win_rate": round(row.controlled.win_rate, 4),
                "length_controlled_interval": [round(row.controlled.low, 4), round(row.controlled.high, 4)],
                "length_effect": round(row.controlled.length_effect, 4),
            }
            for row in table.rows
        ],
    }


def _by_people(session: Session, project_id: UUID) -> Iterator[Encounter]:
    several = (
        select(TaskCompletion.task_id)
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .join(Task, Task.id == TaskCompletion.task_id)
        .where(Task.project_id == project_id, Completion.model_version_id.is_not(None))
        .group_by(TaskCompletion.task_id)
        .having(func.count(Completion.model_version_id.distinct()) > 1)
    )
    answers = (
        select(
            func.json_agg(
                aggregate_order_by(
                    func.json_build_array(Completion.id, Completion.model_version_id, func.length(Completion.text)),
                    TaskCompletion.position,
                )
            )
        )
        .select_from(TaskCompletion)
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .where(TaskCompletion.task_id == Task.id, Completion.model_version_id.is_not(None))
        .correlate(Task)
        .scalar_subquery()
    )
    collected, blind = standing.rankings(), standing.rankings("evaluation")
    rows = session.execute(
        select(Task.prompt_id, Ranking.groups, answers)
        .join(Task, Task.id == Ranking.task_id)
        .where(Ranking.project_id == project_id, Task.id.in_(several), or_(_all(collected), _all(blind)))
        .order_by(Ranking.id.desc())
        .limit(MOST_RANKINGS)
    )
    for prompt_id, groups, placed in rows:
        for (one, model, length), (other, rival, rivals) in combinations(placed, 2):
            outcome = preference(groups, one, other) if model != rival else None
            if outcome is not None:
                yield Encounter(str(prompt_id), UUID(model), UUID(rival), outcome, length - rivals)


def _all(conditions: Sequence[Any]) -> Any:
    first, *others = conditions
    for condition in others:
        first &= condition
    return first


def _by_rewards(run: Run, samples: Iterable[Sample]) -> Iterator[Encounter]:
    """Yield every two policies' answers of the same number to the same prompt, by their rewards."""
    by_place: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        if sample.reward is not None and sample.policy in run.inputs["policies"]:
            by_place.setdefault((sample.prompt_id, sample.index), []).append(sample)
    for (prompt_id, _), found in by_place.items():
        for one, other in combinations(found, 2):
            assert one.reward is not None and other.reward is not None  # noqa: S101, PT018  (as just filtered)
            outcome = 1.0 if one.reward > other.reward else 0.0 if one.reward < other.reward else 0.5
            first, second = (UUID(run.inputs["policies"][sample.policy]) for sample in (one, other))
            yield Encounter(prompt_id, first, second, outcome, len(one.text) - len(other.text))


def _table(session: Session, encounters: Sequence[Encounter], unread: int = 0, judge: str = "") -> Table:
    ids = {model_id for encounter in encounters for model_id in (encounter.first, encounter.second)}
    models = list(session.scalars(select(ModelVersion).where(ModelVersion.id.in_(ids)).order_by(ModelVersion.id)))
    if not models:
        return Table((), "", 0, 0, unread, judge)
    place = {model.id: number for number, model in enumerate(models)}
    meetings = [Meeting(row.prompt, place[row.first], place[row.second], row.outcome) for row in encounters]
    strengths = bradley_terry.strengths(meetings, len(models))
    rows = []
    for model, strength in zip(models, strengths, strict=True):
        own = list(_seen_from(model.id, encounters))
        controlled = length_control.controlled(own)
        if controlled is not None:
            rows.append(Row(model, strength, sum(outcome.won for outcome in own) / len(own), controlled))
    rows.sort(key=lambda row: -row.strength.elo)
    prompts = len(Counter(row.prompt for row in encounters))
    return Table(rows, models[0].name, len(encounters), prompts, unread, judge)


def _seen_from(model_id: UUID, encounters: Iterable[Encounter]) -> Iterator[Outcome]:
    for row in encounters:
        if row.first == model_id:
            yield Outcome(row.prompt, row.outcome, row.longer)
        elif row.second == model_id:
            yield Outcome(row.prompt, 1 - row.outcome, -row.longer)
