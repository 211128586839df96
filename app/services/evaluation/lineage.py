"""From a model back to every ranking behind it, and from a labeler's rankings forward to the policies they trained.

A model learned from the training split of its snapshot; it also carries what its parent had learned, and a policy that
was trained by reward what the reward model had. Who ranked is told by pseudonym, as in exports.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import ConflictError, NotFoundError
from app.models import ModelVersion, Run, Snapshot, User
from app.services.data import frozen, pseudonyms
from app.services.training.run_inputs import METHOD_NAMES

RANKINGS, DEMONSTRATIONS = "comparisons", "demonstrations"
LEARNED = {"sft": DEMONSTRATIONS, "reward": RANKINGS, "dpo": RANKINGS, "kto": RANKINGS}
MOST_POLICIES = 8


@dataclass(frozen=True)
class Data:
    """What a run learned of people: which part of which snapshot, how many rows of its training split.

    `labelers` counts the whole snapshot: the rows that are held out only measure the model.
    """

    snapshot: Snapshot
    kind: str
    rows: int
    labelers: dict[str, int]

    @property
    def words(self) -> str:
        """What it is, as people say it."""
        what = "ranking" if self.kind == RANKINGS else "demonstration"
        count, people = self.rows, len(self.labelers)
        return f"{count:,} {what}{'' if count == 1 else 's'} of {people} labeler{'' if people == 1 else 's'}"


@dataclass(frozen=True)
class Step:
    """One model of the chain: how it belongs there, the run that made it, and what that learned from.

    `prompts` is the snapshot whose prompts a policy answered for a reward; no person's answers are in that.
    """

    model: ModelVersion
    role: str
    run: Run | None
    data: Data | None
    prompts: Snapshot | None


@dataclass(frozen=True)
class Chain:
    """All that is behind a model, the model first. `labelers` are counted by their rows in the largest snapshot."""

    steps: Sequence[Step]
    labelers: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def data(self) -> list[Data]:
        """The data of all steps, each snapshot's once."""
        found = {(step.data.snapshot.id, step.data.kind): step.data for step in self.steps if step.data}
        return list(found.values())


@dataclass(frozen=True)
class Trained:
    """A policy that a labeler's work is behind, and how many of their rankings and demonstrations."""

    model: ModelVersion
    rankings: int
    demonstrations: int


def chain(session: Session, model: ModelVersion) -> Chain:
    """Return everything behind a model."""
    steps = list(_steps(session, model, "", set()))
    most: dict[str, Counter[str]] = {}
    for step in steps:
        if step.data is not None:
            for labeler, count in step.data.labelers.items():
                own = most.setdefault(labeler, Counter())
                own[step.data.kind] = max(own[step.data.kind], count)
    return Chain(steps, {labeler: dict(counts) for labeler, counts in sorted(most.items())})


def as_json(session: Session, model: ModelVersion) -> dict[str, Any]:
    """Return the chain as programs read it, with the id of every ranking and demonstration behind the model.

    The ids come from the snapshots' ledgers; where one is not on this machine they are null, with the reason.
    """
    found = chain(session, model)
    return {
        "model": {"id": str(model.id), "name": model.name, "state": model.state},
        "steps": [
            {
                "model": {"id": str(step.model.id), "name": step.model.name, "method": step.model.method},
                "role": step.role or None,
                "manifest_sha256": step.model.manifest_sha256,
                "run": {"id": str(step.run.id), "name": step.run.name, "method": step.run.method} if step.run else None,
                "snapshot": step.data.snapshot.number if step.data else None,
                "learned_from": step.data.kind if step.data else None,
                "rows": step.data.rows if step.data else None,
            }
            for step in found.steps
        ],
        "labelers": found.labelers,
        "data": [
            {
                "snapshot": {
                    "id": str(data.snapshot.id),
                    "number": data.snapshot.number,
                    "sha256": data.snapshot.sha256,
                    "frozen_at": data.snapshot.created_at.isoformat(),
                },
                "kind": data.kind,
                "rows": data.rows,
                "by_labeler": data.labelers,
                **_ids(data),
            }
            for data in found.data
        ],
    }


def trained_by(session: Session, project_id: UUID, user: User) -> list[Trained]:
    """Return the policies that a labeler's work is behind: the one in use first, then the newest."""
    name = pseudonyms.of_labeler(user.email)
    models = session.scalars(
        select(ModelVersion)
        .where(ModelVersion.project_id == project_id, ModelVersion.kind == "policy", ModelVersion.method != "base")
        .order_by((ModelVersion.state == "promoted").desc(), ModelVersion.id.desc())
        .limit(MOST_POLICIES)
    ).all()
    found = []
    for model in models:
        own = chain(session, model).labelers.get(name)
        if own:
            found.append(Trained(model, own.get(RANKINGS, 0), own.get(DEMONSTRATIONS, 0)))
    return found


def _steps(session: Session, model: ModelVersion, role: str, seen: set[UUID]) -> Iterator[Step]:
    if model.id in seen:
        return
    seen.add(model.id)
    run = session.get(Run, model.run_id) if model.run_id else None
    snapshot = session.get(Snapshot, model.snapshot_id) if model.snapshot_id else None
    kind = LEARNED.get(model.method)
    data = _data(snapshot, kind) if snapshot and kind else None
    yield Step(model, role, run, data, snapshot if snapshot and not kind else None)
    for judge in _reward_models(session, run):
        yield from _steps(session, judge, f"the reward model of {model.name}", seen)
    if model.parent_id is not None:
        yield from _steps(session, session.get_one(ModelVersion, model.parent_id), f"{model.name} began from it", seen)


def _reward_models(session: Session, run: Run | None) -> list[ModelVersion]:
    if run is None or run.method not in METHOD_NAMES:
        return []
    named = [run.inputs.get("reward_model"), *(run.inputs.get("more_reward_models") or ())]
    return [found for key in named if key and (found := session.get(ModelVersion, UUID(str(key)))) is not None]


def _data(snapshot: Snapshot, kind: str) -> Data:
    by = {name: counts[kind] for name, counts in snapshot.manifest.get("labelers", {}).items() if counts.get(kind)}
    return Data(snapshot, kind, snapshot.manifest["splits"].get(kind, {}).get("train", 0), by)


def _ids(data: Data) -> dict[str, Any]:
    """Return the ids of the rows in the training split, and of those held out, from the ledger."""
    ids: dict[str, list[str]] = {"train": [], "held_out": []}
    try:
        for line in frozen.ledger_lines(data.snapshot, data.kind):
            row = json.loads(line)
            ids[row["split"]].append(row["id"])
    except (ConflictError, NotFoundError) as error:
        return {"ids": None, "held_out_ids": None, "reason": error.message}
    return {"ids": ids["train"], "held_out_ids": ids["held_out"]}
