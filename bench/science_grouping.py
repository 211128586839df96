"""Does a reward model overfit in one epoch when the pairs of a ranking are shuffled apart? (InstructGPT, section 3.5)

Rankings of nine answers by people who err, in the tiny world. Both ways see the same 36 pairs of each ranking once,
with the same weight, as many pairs an update, in as many updates. Only which pairs meet in an update differs: whole
rankings, or pairs from everywhere, so that an answer comes back in up to eight updates. Held-out log loss and accuracy
are of the same people's pairs on other prompts. Several seeds (world, rankings, model) and learning rates.

The figures go to `build/science_grouping.jsonl` line by line, and the tables come from there: a stopped bench goes on.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from bench import tiny_world
from trainer import agreement, data, modeling, optim, reward, reward_model
from trainer.config import Optim, RewardOptions, parse_run
from trainer.device import Device
from trainer.layout import Layout
from trainer.rankings import Group, Ranking, group_comparisons
from trainer.tree import Tree

SEEDS, RATES, WAYS = range(5), (3e-4, 1e-3, 3e-3), ("rankings", "shuffled pairs")
OUTPUT = Path("build") / "science_grouping.jsonl"
PROMPTS, HELD_OUT, ANSWERS, AN_UPDATE, NOISE = 160, 160, 9, 8, 2.0
CPU = Device(torch.device("cpu"), torch.float32)


class Outcome(NamedTuple):
    """What one training came to, on pairs that it saw and on others."""

    train_loss: float
    held_out_loss: float
    held_out_accuracy: float


def main() -> None:
    """Train what the output file lacks, then print means over seeds with standard errors, and paired differences."""
    torch.set_num_threads(1)
    OUTPUT.parent.mkdir(exist_ok=True)
    for seed in SEEDS:
        have = {(row["seed"], row["rate"], row["way"]) for row in rows_so_far()}
        missing = [(rate, way) for rate in RATES for way in WAYS if (seed, rate, way) not in have]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            policy, train, held_out = rankings(Path(folder), seed)
            for rate, way in missing:
                outcome = learn(policy, train, held_out, way, rate, seed)
                row = {"seed": seed, "rate": rate, "way": way, **outcome._asdict()}
                with OUTPUT.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    show(rows_so_far())


def rows_so_far() -> list[dict[str, Any]]:
    """Return what has been measured."""
    return [json.loads(line) for line in OUTPUT.read_text(encoding="utf-8").splitlines()] if OUTPUT.exists() else []


def rankings(folder: Path, seed: int) -> tuple[Path, list[Group], list[Group]]:
    """Return the model to start from, and the rankings to learn from and to judge by."""
    world = tiny_world.World(seed)
    policy = tiny_world.speaker(folder, world, seed)
    asked = tiny_world.prompts(world, PROMPTS, seed) + tiny_world.prompts(world, HELD_OUT, seed, split="held_out")
    rows = tiny_world.comparisons(
        world, tiny_world.answers(folder / "answers", policy, asked, ANSWERS, seed), seed, NOISE
    )
    words = modeling.load_tokenizer(str(policy))
    train, held_out = (
        group_comparisons(words, [row for row in rows if row.split == split], 64, data.Truncation())
        for split in ("train", "held_out")
    )
    return policy, train, held_out


def learn(policy: Path, train: list[Group], held_out: list[Group], way: str, rate: float, seed: int) -> Outcome:
    """Train a reward model for one epoch, one way, and judge it."""
    options = RewardOptions(optim=Optim(learning_rate=rate, batch_size=AN_UPDATE, tokens_per_forward=4096))
    config = parse_run({"run_id": "grouping", "method": "reward", "model": str(policy), "max_length": 64})
    torch.manual_seed(seed)
    model = reward_model.new_reward_model(config, CPU, modeling.load_tokenizer(str(policy)))
    layout = model.choose_layout(options.optim.tokens_per_forward, CPU)
    optimizer = optim.build(model.parameters(), options.optim)
    random_ = random.Random(seed)
    if way == "rankings":
        items, size = list(train), AN_UPDATE
    else:
        items = [pair for group in train for pair in apart(group)]
        size = AN_UPDATE * len(items) // len(train)
    random_.shuffle(items)
    updates = [items[start : start + size] for start in range(0, len(items), size)]
    for step, groups in enumerate(updates, start=1):
        copies = torch.ones(len(groups), 1)
        totals, _ = layout.repeat(partial(reward.backward, model, groups, copies, options, layout), optimizer)
        optim.update(optimizer, totals["loss"], options.optim, step, len(updates))
    seen, unseen = (judged(model, groups, options, layout) for groups in (train, held_out))
    return Outcome(seen[0], *unseen)


def apart(group: Group) -> list[Group]:
    """Return every pair of a ranking as a ranking of its own."""
    (ranking,) = group.rankings
    answers = group.tree.completions
    return [
        Group(
            group.messages,
            Tree(group.tree.prompt, [answers[better], answers[worse]]),
            (Ranking(((0,), (1,)), (), (0, 0), ranking.weight, ranking.labeler),),
        )
        for better, worse, _ in ranking.pairs()
    ]


def judged(
    model: reward_model.RewardModel, groups: list[Group], options: RewardOptions, layout: Layout
) -> tuple[float, float]:
    """Return the log loss and the accuracy on all pairs of some rankings."""
    scores = reward.score_groups(model, groups, layout)
    figures = reward.judge(model, groups, scores, options)
    return figures["held_out_loss"], agreement.hits(groups, [values.mean(dim=1) for values in scores]).rate


def show(rows: list[dict[str, Any]]) -> None:
    """Print means over seeds, and what shuffling costs, paired by seed."""
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["rate"], row["way"]), []).append(row)
    table = Table("learning rate", "way", "train loss", "held-out loss", "held-out accuracy")
    for (rate, way), outcomes in found.items():
        cells = [tiny_world.mean_and_error([outcome[key] for outcome in outcomes]) for key in Outcome._fields]
        table.add_row(f"{rate:g}", way, *(f"{mean:.4f} ± {error:.4f}" for mean, error in cells))
    console = Console(width=110)
    console.print(table)
    for rate in RATES:
        worse = shuffling_costs(rows, rate)
        error = statistics.stdev(worse) / math.sqrt(len(worse)) if len(worse) > 1 else math.nan
        console.print(f"at {rate:g} shuffling costs {statistics.mean(worse):+.4f} ± {error:.4f} of held-out log loss")


def shuffling_costs(rows: list[dict[str, Any]], rate: float) -> list[float]:
    """Return how much more held-out log loss shuffled pairs have than whole rankings, of each seed that has both."""
    whole, apart_ = (
        {row["seed"]: row["held_out_loss"] for row in rows if (row["rate"], row["way"]) == (rate, way)} for way in WAYS
    )
    return [apart_[seed] - whole[seed] for seed in sorted(whole.keys() & apart_.keys())]
