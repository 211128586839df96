"""Real human preferences: a reward model on pairs of the HH data, beside TRL's at equal updates and length alone.

SmolLM2-135M-Instruct, all weights, the same start, pairs, order, updates and optimiser on both sides; each is judged on
the same held-out pairs by the same code. What is measured goes to `build/science_hh.jsonl`, a line for each
seed and side, so that a stopped bench goes on; ours comes first, for all seeds.
"""

from __future__ import annotations

import copy
import json
import random
import statistics
import sys
import tempfile
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForSequenceClassification

from app.demo.model import ensure_model
from app.settings import get_settings
from bench import race
from bench.dpo_speed import DATA, read_pairs
from trainer import agreement, modeling, optim, reward
from trainer.config import Optim, RewardOptions
from trainer.data import Truncation
from trainer.device import Device
from trainer.intervals import ratio_interval
from trainer.rankings import Group, group_comparisons
from trainer.records import Comparison, Message, split_of
from trainer.reward_model import RewardModel, head_of

OUTPUT = race.ROOT / "build" / "science_hh.jsonl"
SEEDS = range(3)
TRAIN, HELD_OUT, BATCH, MAX_LENGTH, RATE = 512, 300, 8, 192, 2e-5
CPU = Device(torch.device("cpu"), torch.float32)


def main() -> None:
    """Measure in TRL's environment, on data beside the repository; without them say so and do nothing."""
    if not DATA.exists():
        print(f"science-hh: skipped, {DATA} is not there", file=sys.stderr)
        return
    race.in_peer_environment("bench.science_hh", str(ensure_model(get_settings().var / "models")))


def comparisons() -> tuple[list[Comparison], list[Comparison]]:
    """Return all pairs to learn from and the pairs to judge on; no prompt is on both sides."""
    rows = []
    for number, (said, chosen, rejected) in enumerate(read_pairs(10_000)):
        messages = tuple(Message(role, text) for role, text in said)
        split = split_of(messages, 0.25)
        rows.append(Comparison(f"c{number}", messages, (chosen, rejected), ((0,), (1,)), split=split))
    return [row for row in rows if row.split == "train"], [row for row in rows if row.split == "held_out"][:HELD_OUT]


def new_classifier(folder: str, seed: int) -> Any:
    """Return the model with a new head, as a reward run starts it."""
    found = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, num_labels=1)
    found.config.pad_token_id = modeling.load_tokenizer(folder).pad_token_id
    torch.manual_seed(seed)
    head = head_of(found)
    nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)
    return found.eval()


def ours(classifier: Any, tokenizer: Any, groups: list[Group]) -> race.Lap:
    """Train on eight pairs an update."""
    model = RewardModel(classifier, tokenizer)
    options = RewardOptions(optim=Optim(learning_rate=RATE, schedule="constant", warmup_fraction=0.0, beta2=0.999))
    layout = model.choose_layout(2048, CPU)
    optimizer = optim.build(model.parameters(), options.optim)

    def train() -> list[float]:
        losses = []
        for step, start in enumerate(range(0, len(groups), BATCH), start=1):
            part = groups[start : start + BATCH]
            totals, _ = reward.backward(model, part, torch.ones(len(part), 1), options, layout)
            optim.update(optimizer, totals["loss"], options.optim, step, len(groups) // BATCH)
            losses.append(totals["loss"])
        return losses

    return race.timed(model.trunk, train)


def peer(classifier: Any, tokenizer: Any, groups: list[Group]) -> race.Lap:
    """Train TRL's RewardTrainer on the same eight pairs an update."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    trees = [group.tree for group in groups]
    rows = [{"chosen_ids": t.prompt + t.completions[0], "rejected_ids": t.prompt + t.completions[1]} for t in trees]
    with tempfile.TemporaryDirectory() as folder:
        settings = race.one_pass(
            RewardConfig,
            folder,
            RATE,
            per_device_train_batch_size=BATCH // 2,
            gradient_accumulation_steps=2,
            max_length=None,
        )
        trainer = RewardTrainer(
            model=classifier, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        return race.timed_peer(classifier.model, trainer)


def measure(folder: str, seed: int, side: str) -> dict[str, Any]:
    """Train one side on one seed's pairs and judge it."""
    tokenizer = modeling.load_tokenizer(folder)
    learned, judged = comparisons()
    random.Random(seed).shuffle(learned)
    groups, held_out = (
        group_comparisons(tokenizer, rows, MAX_LENGTH, Truncation()) for rows in (learned[:TRAIN], judged)
    )
    classifier = new_classifier(folder, seed)
    before = None if side == "peer" else accuracy(RewardModel(copy.deepcopy(classifier), tokenizer), held_out)
    lap = {"ours": ours, "peer": peer}[side](classifier, tokenizer, groups)
    found = accuracy(RewardModel(classifier.eval(), tokenizer), held_out)
    low, high = ratio_interval(*found, seed=0)
    return {
        "pairs": len(groups),
        "held_out": len(held_out),
        "before": None if before is None else before.rate,
        "accuracy": found.rate,
        "interval": [low, high],
        "length_only": agreement.length_only(groups, held_out),
        "tokens": lap.tokens,
        "cpu_seconds": round(lap.cpu_seconds, 1),
        "first_loss": lap.losses[0],
        "last_losses": statistics.fmean(lap.losses[-8:]),
    }


def accuracy(model: RewardModel, groups: list[Group]) -> agreement.Hits:
    """Return how often the model agrees with people."""
    layout = model.choose_layout(4096, CPU)
    return agreement.hits(groups, [values[:, 0] for values in reward.score_groups(model, groups, layout)])


def rows_so_far() -> list[dict[str, Any]]:
    """Return what has been measured."""
    return [json.loads(line) for line in OUTPUT.read_text(encoding="utf-8").splitlines()] if OUTPUT.exists() else []


def run(folder: str) -> None:
    """Measure what is missing and print a table."""
    race.only_in_peer_environment()
    torch.set_num_threads(1)
    OUTPUT.parent.mkdir(exist_ok=True)
    have = {(row["seed"], row["side"]) for row in rows_so_far()}
    for side in ("ours", "peer"):
        for seed in SEEDS:
            if (seed, side) not in have:
                row = {"seed": seed, "side": side, **measure(folder, seed, side)}
                with OUTPUT.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    table = Table(
        "seed", "side", "accuracy", "95 %", "length alone", "before", "loss at first, last", "tokens", "CPU s"
    )
    for row in rows_so_far():
        low, high = row["interval"]
        table.add_row(
            str(row["seed"]),
            row["side"],
            f"{row['accuracy']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{row['length_only']:.1%}",
            "-" if row["before"] is None else f"{row['before']:.1%}",
            f"{row['first_loss']:.4f}, {row['last_losses']:.4f}",
            f"{row['tokens']:,}",
            f"{row['cpu_seconds']:.0f}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    run(*sys.argv[1:])
