"""A project's quality in figures: agreement, and every labeler's reliability and habits. For the worker, not the web.

What comes out is plain JSON, which is stored in `quality_reports.body` and read by `app.services.quality.quality`.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from app.services.quality import adjudications, quality_data
from app.services.quality.quality_data import Numbered
from app.services.quality.statistics import bias, reliability
from app.services.quality.statistics.agreement import (
    Agreement,
    agreement,
    disagreement,
    meetings,
    with_group,
    with_others,
)
from app.services.quality.statistics.evidence import Estimate, cluster_share, critical
from app.services.quality.statistics.pairs import pair_values, rows_of, totals

MOST_DISAGREEMENTS = 500
LEAST_JUDGEMENTS = 30
"""Pairs that a labeler must share with others before anything is said against their reliability."""
CHANCE = 0.6
"""Whose reliability lies surely below this hardly does better than a coin."""
SUSPECT_GOLD = 0.6
"""A gold task on which labelers agree with the reference this little is itself in doubt."""

Json = dict[str, Any]


def compute(session: Session, project_id: UUID) -> Json:
    """Return the report of everything the session sees; give it a transaction that sees one moment."""
    collected = quality_data.collected(session, project_id)
    known = quality_data.with_references(session, project_id)
    judged = quality_data.with_verdicts(session, project_id)
    table = collected.table
    met = meetings(table, pair_values(table.ranks))
    gold_of_labeler, gold_tasks = _gold(known)
    scores, settled = disagreement(table, met), adjudications.settled(session, project_id)
    return {
        "rankings": len(table.task),
        "tasks": len(collected.tasks),
        "shared_tasks": len(np.unique(table.task[met.left])),
        "agreement": _agreement(agreement(table)),
        "with_reviewers": _estimate(_against_reviewers(judged)),
        "labelers": _labelers(collected, with_others(table, met), gold_of_labeler),
        "gold": gold_tasks,
        "disagreements": [
            {"task": str(collected.tasks[place]), "score": float(scores[place])}
            for place in np.argsort(-np.nan_to_num(scores, nan=-1), kind="stable")
            if scores[place] > 0 and collected.tasks[place] not in settled
        ][:MOST_DISAGREEMENTS],
    }


def _labelers(collected: Numbered, others: list[Estimate | None], gold: dict[UUID, Estimate | None]) -> list[Json]:
    table, people = collected.table, collected.labelers
    found: list[Json] = []
    if people:
        fit = reliability.estimate(table)
        surely = critical(len(people))
        positions, lengths, paces = bias.positions(table), bias.lengths(table), bias.paces(table)
        rows = rows_of(table.labeler, table.number_of_labelers)
    for number, person in enumerate(people):
        score, judgements = fit.reliability[number], int(fit.judgements[number])
        upper = reliability.chance_right(float(fit.skill[number] + surely * fit.error[number]))
        position, length, pace = positions[number], lengths[number], paces[number]
        flags = [
            name
            for name, is_flagged in (
                ("reversed", judgements >= LEAST_JUDGEMENTS and upper < 0.5),
                ("chance", judgements >= LEAST_JUDGEMENTS and 0.5 <= upper < CHANCE),
                ("position", position is not None and position.flagged),
                ("length", length is not None and length.flagged),
                ("haste", pace is not None and pace.hasty.flagged),
            )
            if is_flagged
        ]
        found.append(
            {
                "user": str(person),
                "rankings": len(rows[number]),
                "reliability": _estimate(score) if judgements else None,
                "with_others": _estimate(others[number]),
                "gold": _estimate(gold.pop(person, None)),
                "position": _habit(position),
                "length": _habit(length),
                "pace": _pace(pace),
                "flags": flags,
            }
        )
    # Somebody on trial, or only ever handed gold tasks, has no ranking that is collected.
    found += [
        {"user": str(person), "rankings": 0, "gold": _estimate(estimate), "flags": []}
        | dict.fromkeys(("reliability", "with_others", "position", "length", "pace"))
        for person, estimate in gold.items()
    ]
    return found


def _gold(known: Numbered) -> tuple[dict[UUID, Estimate | None], list[Json]]:
    """Return each labeler's agreement with the references, and each task's."""
    table = known.table
    met = meetings(table, pair_values(table.ranks))
    # The reference is the first row of its task, so it is always on the left.
    with_reference = table.labeler[met.left] == len(known.labelers)
    task, labeler = table.task[met.left][with_reference], table.labeler[met.right][with_reference]
    points, compared = met.points[with_reference], met.compared[with_reference]
    by_labeler = {
        person: cluster_share(totals(task[rows], points[rows]), totals(task[rows], compared[rows]))
        for person, rows in zip(known.labelers, rows_of(labeler, len(known.labelers)), strict=True)
    }
    by_task = []
    for place, rows in enumerate(rows_of(task, len(known.tasks))):
        share = cluster_share(points[rows], compared[rows])
        by_task.append(
            {
                "task": str(known.tasks[place]),
                "answers": len(rows),
                "agreement": _estimate(share),
                "suspect": share is not None and len(rows) >= 3 and share.value < SUSPECT_GOLD,
            }
        )
    return by_labeler, by_task


def _against_reviewers(judged: Numbered) -> Estimate | None:
    if not any(judged.is_reviewer):
        return None
    met = meetings(judged.table, pair_values(judged.table.ranks))
    return with_group(judged.table, met, np.array(judged.is_reviewer))


def _agreement(found: Agreement) -> Json:
    names = ("alpha_nominal", "alpha_ordinal", "tau_b", "pairs", "strict")
    return {name: _estimate(getattr(found, name)) for name in names} | {"flat_rankings": found.flat_rankings}


def _estimate(found: Estimate | None) -> Json | None:
    if found is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def _habit(found: bias.Habit | None) -> Json | None:
    if found is None:
        return None
    return {
        "share": _estimate(found.share),
        "expected": found.expected,
        "p_value": found.p_value,
        "flagged": found.flagged,
    }


def _pace(found: bias.Pace | None) -> Json | None:
    if found is None:
        return None
    return {
        "seconds": _estimate(found.seconds),
        "seconds_per_1000": _estimate(found.seconds_per_1000),
        "ratio": found.ratio if math.isfinite(found.ratio) else None,
        "hasty": _habit(found.hasty),
    }
