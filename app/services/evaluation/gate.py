"""The gate: what a candidate has to reach in a project before it is used, held against what was measured of it.

Figures come from the newest evaluation of the model and from the newest blind evaluation that has stopped; a pipeline
names its own. A threshold whose figure was not measured is not met. Each verdict is stored with its numbers, so that it
can be read after thresholds or figures have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import BlindEvaluation, Gate, GateVerdict, ModelVersion, Project, Run, User
from app.services.accounts import audit


@dataclass(frozen=True)
class Limits:
    """The thresholds of a project or a recipe, each as the share or number it stands for; None is not asked for."""

    min_accuracy: float | None = None
    min_win_rate: float | None = None
    min_blind_win_rate: float | None = None
    max_kl: float | None = None
    max_perplexity_rise: float | None = None
    max_choice_drop: float | None = None

    def over(self, others: Limits) -> Limits:
        """Return these limits, and the others' where these say nothing."""
        ours = {name: limit for name, limit in asdict(self).items() if limit is not None}
        return replace(others, **ours)


@dataclass(frozen=True)
class Check:
    """One threshold held against what was measured: `source` says where the number comes from, or why there is none."""

    name: str
    limit: float
    measured: float | None
    passed: bool
    source: str

    @property
    def is_least(self) -> bool:
        """Whether the limit is the least that will do, rather than the most."""
        return self.name.startswith("min_")

    @property
    def words(self) -> str:
        """What is measured, as people say it."""
        return WORDS[self.name]

    @property
    def is_share(self) -> bool:
        """Whether the number is a share, to be shown in percent."""
        return self.name != "max_kl"

    @property
    def sentence(self) -> str:
        """How it came out, in one sentence."""
        if self.measured is None:
            return f"The {self.words} was not measured."
        limit, measured = (shown(number, is_share=self.is_share) for number in (self.limit, self.measured))
        if self.passed:
            return f"The {self.words} is {measured}; {'at least' if self.is_least else 'at most'} {limit} is asked for."
        return f"The {self.words} is {measured}, {'below' if self.is_least else 'above'} {limit}."


WORDS = {
    "min_accuracy": "accuracy of the reward model",
    "min_win_rate": "lower bound of the win rate by the reward model",
    "min_blind_win_rate": "lower bound of the win rate by labelers",
    "max_kl": "KL to the baseline",
    "max_perplexity_rise": "rise of the perplexity",
    "max_choice_drop": "drop of the multiple-choice accuracy",
}


def shown(number: float, *, is_share: bool) -> str:
    """Return a number of the gate as people read it."""
    return f"{number * 100:.3g} %" if is_share else f"{number:.3g}"


def of_project(session: Session, project_id: UUID) -> tuple[Limits, bool]:
    """Return a project's limits, and whether a candidate that passes in a pipeline is promoted without an admin."""
    gate = session.get(Gate, project_id)
    if gate is None:
        return Limits(), False
    return Limits(*(getattr(gate, field.name) for field in fields(Limits))), gate.promotes


def save(session: Session, project: Project, user: User, limits: Limits, *, promotes: bool, blind_percent: int) -> None:
    """Store a project's thresholds, and the share of blind tasks while there are any; saved twice is saved once.

    Raises `InvalidInputError` when candidates would be promoted by a gate that asks for nothing.
    """
    if promotes and limits == Limits():
        raise InvalidInputError("Set a threshold first: a gate that asks for nothing would promote every candidate.")
    before = (*of_project(session, project.id), project.blind_percent)
    if before == (limits, promotes, blind_percent):
        return
    values = {**asdict(limits), "promotes": promotes, "changed_by": user.id}
    session.execute(
        upsert(Gate)
        .values(project_id=project.id, **values)
        .on_conflict_do_update(index_elements=[Gate.project_id], set_=values)
    )
    project.blind_percent = blind_percent
    changed = {**asdict(limits), "promotes": promotes, "blind_percent": blind_percent}
    audit.record(session, user, "gate.changed", "project", project.id, **changed)


def judge(
    session: Session,
    model: ModelVersion,
    user: User | None,
    limits: Limits,
    *,
    run: Run | None = None,
    blind: BlindEvaluation | None = None,
) -> GateVerdict:
    """Hold a policy against the limits and store the verdict; `run` and `blind` are a pipeline's own evaluations."""
    if model.kind != "policy":
        raise InvalidInputError("Only a policy goes through the gate; this is a reward model.")
    checks = held(limits, measured(session, model, run=run, blind=blind))
    verdict = GateVerdict(
        project_id=model.project_id,
        model_id=model.id,
        passed=all(check.passed for check in checks),
        checks=[asdict(check) for check in checks],
        created_by=user.id if user else None,
    )
    session.add(verdict)
    session.flush()
    audit.record(session, user, "gate.judged", "model_version", model.id, passed=verdict.passed)
    return verdict


def held(limits: Limits, found: Mapping[str, tuple[float | None, str]]) -> list[Check]:
    """Return each threshold that is set with what was measured. A number on the limit passes."""
    checks = []
    for name, limit in asdict(limits).items():
        if limit is None:
            continue
        value, source = found[name]
        within = value is not None and (value >= limit if name.startswith("min_") else value <= limit)
        checks.append(Check(name, limit, value, within, source))
    return checks


def checks_of(verdict: GateVerdict) -> list[Check]:
    """Return the checks of a stored verdict."""
    return [Check(**row) for row in verdict.checks]


def newest(session: Session, model_id: UUID) -> GateVerdict | None:
    """Return the newest verdict about a model."""
    return session.scalar(
        select(GateVerdict).where(GateVerdict.model_id == model_id).order_by(GateVerdict.id.desc()).limit(1)
    )


def verdicts(session: Session, project_id: UUID, most: int = 20) -> Sequence[tuple[GateVerdict, str]]:
    """Return a project's newest verdicts with the names of the models."""
    rows = session.execute(
        select(GateVerdict, ModelVersion.name)
        .join(ModelVersion, ModelVersion.id == GateVerdict.model_id)
        .where(GateVerdict.project_id == project_id)
        .order_by(GateVerdict.id.desc())
        .limit(most)
    )
    return [(verdict, name) for verdict, name in rows]


def measured(
    session: Session, model: ModelVersion, *, run: Run | None = None, blind: BlindEvaluation | None = None
) -> dict[str, tuple[float | None, str]]:
    """Return what was measured of a policy, by threshold: the number, and where it comes from."""
    run = run or _evaluation_of(session, model)
    blind = blind or session.scalar(
        select(BlindEvaluation)
        .where(BlindEvaluation.candidate_id == model.id, BlindEvaluation.state == "stopped")
        .order_by(BlindEvaluation.stopped_at.desc())
        .limit(1)
    )
    summary = (run.report or {}).get("summary", {}) if run else {}
    policies = summary.get("policies", {})
    own = policies.get(model.name, {})
    base = policies.get(run.config["options"]["baseline"], {}) if run else {}
    source = run.name if run else "It has not been evaluated."
    people = (
        (blind.figures["low"], f"{blind.figures['judged']} prompts judged blind")
        if blind is not None and blind.state == "stopped" and blind.figures["judged"]
        else (None, "It has not been judged blind.")
    )
    interval = own.get("win_rate_interval")
    ratio = _both(own, base, "perplexity")
    choice = _both(own, base, "choice_accuracy")
    return {
        "min_accuracy": (_number(summary.get("held_out_accuracy")), source),
        "min_win_rate": (_number(interval[0]) if interval else None, source),
        "min_blind_win_rate": people,
        "max_kl": (_number(own.get("kl")), source),
        "max_perplexity_rise": (ratio[0] / ratio[1] - 1 if ratio else None, source),
        "max_choice_drop": (choice[1] - choice[0] if choice else None, source),
    }


def _evaluation_of(session: Session, model: ModelVersion) -> Run | None:
    """Return the newest run that judged the model as a candidate, not as the baseline that others are held against."""
    found = model.metrics.get("evaluation", {}).get("run_id")
    return session.get(Run, UUID(found)) if found else None


def _both(own: Mapping[str, Any], base: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    mine, theirs = _number(own.get(name)), _number(base.get(name))
    return None if mine is None or theirs is None else (mine, theirs)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
