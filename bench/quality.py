"""The figures of a quality report on a hundred thousand rankings: how much each costs, and what is found again.

python -m bench quality

The rankings are drawn from the model that the reliability estimate assumes, by labelers of known skill; reading them
from the database is not part of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from app.services.quality.statistics import agreement, bias, reliability
from app.services.quality.statistics.pairs import Floats, RankingTable, pair_values

RANKINGS, LABELERS, K, OVERLAPS = 100_000, 40, 4, (2, 3, 8)
TIE = 0.3
STEPS: dict[str, Callable[[RankingTable], object]] = {
    "agreement": agreement.agreement,
    "each with the others": lambda table: agreement.with_others(
        table, agreement.meetings(table, pair_values(table.ranks))
    ),
    "reliability": reliability.estimate,
    "habits": lambda table: (bias.positions(table), bias.lengths(table), bias.paces(table)),
}


def main() -> None:
    """Measure at several overlaps and print seconds, memory, and how well the planted skills are found."""
    for overlap in OVERLAPS:
        skills, table = _drawn(overlap)
        seconds = {}
        for name, step in STEPS.items():
            started = time.process_time()
            result = step(table)
            seconds[name] = time.process_time() - started
            if isinstance(result, reliability.Reliability):
                found = result
        inside = np.mean(np.abs(found.skill - skills) < 1.96 * found.error)
        print(
            f"quality, CPU seconds: {len(table.task):,} rankings of {K}, {LABELERS} labelers, {overlap} a task: "
            + ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
            + f"; skills found with correlation {np.corrcoef(found.skill, skills)[0, 1]:.3f}, "
            f"{inside:.0%} inside their interval"
        )


def _drawn(overlap: int) -> tuple[Floats, RankingTable]:
    generator = np.random.default_rng(overlap)
    tasks = RANKINGS // overlap
    skills = np.clip(generator.normal(1.4, 0.6, LABELERS), 0.2, None)
    skills[:2] = 0.0, -1.0  # one clicks at random, one reads the ranks upside down
    task = np.repeat(np.arange(tasks), overlap)
    labeler = generator.permuted(np.tile(np.arange(LABELERS), (tasks, 1)), axis=1)[:, :overlap].ravel()
    scores = generator.normal(size=(tasks, K))
    seen = skills[labeler][:, None] * scores[task] + generator.gumbel(size=(len(task), K))
    order = np.argsort(-seen, axis=1)
    gaps = -np.diff(np.take_along_axis(seen, order, axis=1), axis=1)
    places = np.cumsum(np.column_stack([np.ones(len(task)), gaps > TIE]), axis=1).astype(np.int8)
    ranks = np.empty_like(places)
    np.put_along_axis(ranks, order, places, axis=1)
    return skills, RankingTable(
        task=task,
        labeler=labeler,
        ranks=ranks,
        shown=generator.permuted(np.tile(np.arange(1, K + 1, dtype=np.int8), (len(task), 1)), axis=1),
        seconds=generator.lognormal(4, 0.4, size=len(task)),
        prompt_of_task=np.arange(tasks),
        lengths=generator.integers(100, 2000, size=(tasks, K)),
        prompt_lengths=np.full(tasks, 80),
        number_of_labelers=LABELERS,
    )
