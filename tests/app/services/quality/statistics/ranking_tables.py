"""Ranking tables for tests: written by hand, or drawn from the model that the reliability estimate assumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.services.quality.statistics.pairs import Floats, RankingTable


def table(
    rows: Sequence[tuple[int, int, Sequence[int]]],
    *,
    shown: Sequence[Sequence[int]] | None = None,
    seconds: Sequence[float] | None = None,
    lengths: Sequence[Sequence[int]] | None = None,
    prompts: Sequence[int] | None = None,
) -> RankingTable:
    """A table of (task, labeler, ranks); every task has its own prompt unless told otherwise."""
    ranks = np.array([row[2] for row in rows], dtype=np.int8)
    tasks = max(row[0] for row in rows) + 1
    return RankingTable(
        task=np.array([row[0] for row in rows]),
        labeler=np.array([row[1] for row in rows]),
        ranks=ranks,
        shown=np.array(shown if shown is not None else np.zeros_like(ranks), dtype=np.int8),
        seconds=np.array(seconds if seconds is not None else [60.0] * len(rows)),
        prompt_of_task=np.array(prompts if prompts is not None else range(tasks)),
        lengths=np.array(lengths if lengths is not None else [[100] * ranks.shape[1]] * tasks),
        prompt_lengths=np.zeros(tasks, dtype=np.int32),
        number_of_labelers=max(row[1] for row in rows) + 1,
    )


def simulated(
    skills: Sequence[float], *, tasks: int, k: int = 4, overlap: int = 2, tie: float = 0.3, seed: int = 0
) -> RankingTable:
    """Rankings by labelers of these skills, `overlap` of them on each task; near answers are tied."""
    generator = np.random.default_rng(seed)
    task = np.repeat(np.arange(tasks), overlap)
    labeler = np.concatenate([generator.permutation(len(skills))[:overlap] for _ in range(tasks)])
    scores = generator.normal(size=(tasks, k))
    seen: Floats = np.array(skills)[labeler][:, None] * scores[task] + generator.gumbel(size=(len(task), k))
    order = np.argsort(-seen, axis=1)
    gaps = -np.diff(np.take_along_axis(seen, order, axis=1), axis=1)
    places = np.cumsum(np.column_stack([np.ones(len(task)), gaps > tie]), axis=1).astype(np.int8)
    ranks = np.empty_like(places)
    np.put_along_axis(ranks, order, places, axis=1)
    lengths = generator.integers(50, 500, size=(tasks, k))
    return RankingTable(
        task=task,
        labeler=labeler,
        ranks=ranks,
        shown=generator.permuted(np.tile(np.arange(1, k + 1, dtype=np.int8), (len(task), 1)), axis=1),
        seconds=generator.lognormal(4, 0.4, size=len(task)),
        prompt_of_task=np.arange(tasks),
        lengths=lengths,
        prompt_lengths=np.zeros(tasks, dtype=np.int32),
        number_of_labelers=len(skills),
    )
