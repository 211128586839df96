"""What asking where the reward model is unsure saves: rankings needed for an accuracy, beside a random order.

python -m bench active-selection [SEEDS]

Linear reward models of several heads, each on its own bootstrap of the prompts, learn from a growing set of rankings;
after every batch the waiting tasks are put in order by the code that orders the queue (`queue_order.ordered`), on what
the trainer's scoring says of them (`trainer.score`). The target is the accuracy that the random order has, on average
over seeds, when half of its budget is spent; the saving is one minus the share of those rankings that another order
needs for it. Intervals (95 %) are a bootstrap over seeds. Two worlds are simulated: labelers choose by Plackett and
Luce from a known linear utility, and accuracy is over noise-free held-out pairs. One is real: HH's harmless test set as
hashed words, a weak model of it.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray

from app.services.labeling.queue_order import Policy, ordered
from trainer.records import Score
from trainer.score import information

Floats = NDArray[np.float64]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "hh-rlhf" / "harmless-base-test.jsonl.gz"
HEADS, SEEDS = 8, 20
NEWTON_STEPS = 6
RESAMPLES = 2_000
ORDERS: dict[str, tuple[Policy, float]] = {
    "random": ("random", 1.0),
    "uncertainty, 20 % random": ("uncertainty", 0.2),
    "uncertainty": ("uncertainty", 0.0),
    "margin, 20 % random": ("margin", 0.2),
    "margin": ("margin", 0.0),
}


@dataclass(frozen=True)
class World:
    """Tasks (N, K, D), a ranking of each (indexes, best first), held-out pairs' differences (M, D), better less worse.

    `batch` rankings come in before the model learns again; random's accuracy after `target` rankings is to be reached.
    """

    tasks: Floats
    rankings: NDArray[np.int64]
    held_out: Floats
    batch: int
    target: int
    budget: int
    ridge: float


def main(seeds: int = SEEDS) -> None:
    """Measure in each world and print one line an order."""
    worlds: dict[str, Callable[[int], World]] = {"alike": _alike, "rare topics": _rare_topics}
    if DATA.exists():
        pairs = _hh_pairs()
        worlds["HH harmless, hashed words"] = lambda seed: _hh(pairs, seed)
    else:
        print(f"active selection: {DATA} is not there, so nothing real is measured")
    for name, make in worlds.items():
        curves: dict[str, list[list[float]]] = {order: [] for order in ORDERS}
        for seed in range(seeds):
            world = make(seed)
            for order, (policy, share) in ORDERS.items():
                curves[order].append(_curve(world, policy, share, seed))
        _tell(name, world, {order: np.array(rows) for order, rows in curves.items()})


def _curve(world: World, policy: Policy, share: float, seed: int) -> list[float]:
    """Return the held-out accuracy after each batch."""
    waiting = list(range(len(world.tasks)))
    chosen: list[int] = []
    copies = np.random.default_rng(seed).poisson(1.0, size=(HEADS, len(world.tasks))).astype(float)
    heads = np.zeros((HEADS, world.tasks.shape[2]))
    accuracies = []
    while len(chosen) < world.budget:
        scores = _scores(world, waiting, heads, policy)
        # Nothing is known at first, so every order begins with the same random tasks.
        places = ordered(scores, policy if chosen else "random", share, seed * 1_000 + len(chosen))
        new = [place.task_id.int for place in places[: world.batch]]
        chosen += new
        gone = set(new)
        waiting = [task for task in waiting if task not in gone]
        heads = _fit(world, chosen, copies[:, chosen], heads)
        accuracies.append(float((world.held_out @ heads.mean(axis=0) > 0).mean()))
    return accuracies


def _scores(world: World, waiting: Sequence[int], heads: Floats, policy: Policy) -> list[Score]:
    names = [str(UUID(int=task)) for task in waiting]
    if policy == "random" or not heads.any():
        return [Score(name, (), 0.0, 0.0, 0.0) for name in names]
    first, second = np.triu_indices(world.tasks.shape[1], 1)
    scores = world.tasks[waiting] @ heads.T  # (tasks, K, E)
    differences = torch.from_numpy(scores[:, first] - scores[:, second])
    tells = information(differences).mean(dim=1).tolist()
    margins = differences.mean(dim=2).abs().mean(dim=1).tolist()
    return [Score(name, (), *row) for name, *row in zip(names, tells, [0.0] * len(names), margins, strict=True)]


def _fit(world: World, chosen: Sequence[int], copies: Floats, heads: Floats) -> Floats:
    """Return the heads that minimise the pairwise loss, all pairs of a prompt weighing one together, by Newton."""
    ranked = np.take_along_axis(world.tasks[chosen], world.rankings[chosen][:, :, None], axis=1)
    better, worse = np.triu_indices(ranked.shape[1], 1)
    x = (ranked[:, better] - ranked[:, worse]).reshape(-1, ranked.shape[2])  # (pairs, D)
    weight = np.repeat(copies, len(better), axis=1) / len(better)  # (E, pairs)
    ridge = world.ridge * np.eye(x.shape[1])
    heads = np.zeros_like(heads)  # from zero Newton's steps do not overshoot; from the last fit they can
    for _ in range(NEWTON_STEPS):
        wrong = 1 / (1 + np.exp(heads @ x.T))
        slope = (weight * wrong) @ x - world.ridge * heads
        curve = np.stack([(x * row[:, None]).T @ x for row in weight * wrong * (1 - wrong)]) + ridge
        heads = heads + np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
    return heads


def _tell(name: str, world: World, curves: dict[str, Floats]) -> None:
    generator = np.random.default_rng(0)
    place = world.target // world.batch - 1
    seeds = len(curves["random"])
    print(
        f"active selection, {name}: {len(world.tasks)} tasks of {world.tasks.shape[1]}, {seeds} seeds; random has "
        f"{curves['random'][:, place].mean():.1%} after {world.target} rankings, "
        f"{curves['random'][:, -1].mean():.1%} after {world.budget}"
    )
    for order, found in curves.items():
        if order == "random":
            continue
        saving = _saving(world, curves["random"], found)
        resampled = []
        for _ in range(RESAMPLES):
            rows = generator.integers(seeds, size=seeds)
            resampled.append(_saving(world, curves["random"][rows], found[rows]))
        low, high = np.percentile(resampled, (2.5, 97.5))
        gain = found[:, place] - curves["random"][:, place]
        print(
            f"  {order}: saves {saving:.0%} of the rankings ({low:.0%} to {high:.0%}); at {world.target} rankings "
            f"{found[:, place].mean():.1%}, {gain.mean() * 100:+.1f} points, "
            f"better in {(gain > 0).sum()} of {seeds} seeds"
        )


def _saving(world: World, random: Floats, other: Floats) -> float:
    """Return 1 - n / target, n the rankings at which `other`'s mean curve reaches random's mean at the target for good.

    Where it is not reached within the budget, n counts as the budget: the saving is then an upper bound below zero.
    """
    wanted = random[:, world.target // world.batch - 1].mean()
    mean = other.mean(axis=0)
    below = np.flatnonzero(mean < wanted)
    if len(below) == 0:
        return 1 - world.batch / world.target
    last = int(below[-1])
    if last + 1 == len(mean):
        return 1 - world.budget / world.target
    part = (wanted - mean[last]) / (mean[last + 1] - mean[last])
    return float(1 - (last + 1 + part) * world.batch / world.target)


def _alike(seed: int) -> World:
    """2,000 prompts of one kind with 4 answers each, 32 features of falling weight."""
    generator = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(32) / 4)
    return _simulated(generator, generator.normal(size=(3_000, 4, 32)) * scale, generator.normal(size=32))


def _rare_topics(seed: int) -> World:
    """The same, but each prompt is of one of eight topics with features of its own, the rarest one in 128 prompts."""
    generator = np.random.default_rng(seed)
    shares = 1 / 2 ** np.array([1, 2, 3, 4, 5, 6, 7, 7])
    topic = generator.choice(8, size=3_000, p=shares)
    own = np.zeros((3_000, 4, 8, 6))
    own[np.arange(3_000), :, topic] = generator.normal(size=(3_000, 4, 6))
    return _simulated(generator, own.reshape(3_000, 4, 48), generator.normal(size=48))


def _simulated(generator: np.random.Generator, answers: Floats, utility: Floats) -> World:
    worth = answers @ (utility * 1.5 / np.sqrt((answers @ utility).var()))
    tasks, held_out = 2_000, slice(2_000, None)
    better, worse = np.triu_indices(answers.shape[1], 1)
    differences = answers[held_out][:, better] - answers[held_out][:, worse]
    sign = np.sign(worth[held_out][:, better] - worth[held_out][:, worse])
    noisy = worth[:tasks] + generator.gumbel(size=worth[:tasks].shape)
    return World(
        answers[:tasks],
        np.argsort(-noisy, axis=1),
        (differences * sign[:, :, None]).reshape(-1, answers.shape[2]),
        batch=10,
        target=120,
        budget=240,
        ridge=1.0,
    )


def _hh_pairs() -> Floats:
    """Return (pairs, 2, D): hashed words of the last turn, the chosen answer first, and how long it is."""
    pairs = []
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            answers = [row[side].rsplit("\n\nAssistant:", 1)[-1] for side in ("chosen", "rejected")]
            if answers[0].strip() != answers[1].strip():
                pairs.append([_words(text) for text in answers])
    return np.array(pairs)


def _words(text: str) -> Floats:
    found = np.zeros(129)
    words = re.findall(r"\w+|[?!]", text.lower())
    for word in words:
        found[zlib.crc32(word.encode()) % 128] += 1
    found[128] = len(words) ** 0.5
    return np.sqrt(found)


def _hh(pairs: Floats, seed: int) -> World:
    order = np.random.default_rng(seed).permutation(len(pairs))
    train, held_out = pairs[order[:1_500]], pairs[order[1_500:]]
    return World(
        train,
        np.tile(np.arange(2), (len(train), 1)),
        held_out[:, 0] - held_out[:, 1],
        batch=25,
        target=500,
        budget=1_000,
        ridge=60.0,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
