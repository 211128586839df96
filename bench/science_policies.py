"""What reinforcement learning from a learned reward does to the true one, in the tiny world (`bench.tiny_world`).

Each seed has its own language, people, rankings and models. The people rank four answers to each of 300 prompts, with
errors; a reward model of four heads learns from that, and policies learn from it or from the rankings themselves:

- (b) PPO with KL coefficients from 0 to 1: is the best one for the gold score an inner one?
- (c) how straight is the line of reward over sqrt(KL) along a run (Bai et al. 2022)?
- (d) PPO without a penalty, long, on one head, on four heads' mean, on their worst, on the worst of four whole models:
  how far do proxy and gold part?
- (e) PPO with and without pretraining texts (PPO-ptx): what happens to the loss on texts of the language?
- (f) DPO with several beta beside (b): gold over KL on the same axes.

Every policy's answers to the same 200 held-out prompts are judged: KL to the start, reward model, gold. The figures
go to `build/science_policies.jsonl` line by line, and the tables come from there, so a stopped bench goes on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import tiny_world
from trainer import modeling
from trainer.data import Truncation, encode
from trainer.records import Demonstration
from trainer.tree import collate

SEEDS = range(3)
OUTPUT = Path("build") / "science_policies.jsonl"
COEFFICIENTS = (0.0, 0.02, 0.05, 0.2, 1.0)
BETAS = (0.03, 0.1, 0.3, 1.0)
LONG = (30, 120)  # iterations
PRETRAINING = (0.1, 1.0)  # weights of the texts' cross-entropy
PPO = {
    "iterations": 60,
    "minibatches": 4,
    "optim": {"learning_rate": 1e-3, "batch_size": 64, "schedule": "constant", "tokens_per_forward": 4096},
    "sampling": {"temperature": 1.0, "max_new_tokens": tiny_world.MAX_WORDS + 8, "batch_size": 64},
}


@dataclasses.dataclass(frozen=True)
class Start:
    """What all policies of a seed start from."""

    folder: Path
    world: tiny_world.World
    seed: int
    policy: Path
    heads: Path  # a reward model of four heads
    single: Path  # one of one head
    models: Path  # four whole models
    rows: list[Any]  # the rankings
    asked: list[Any]  # prompts to train on
    held_out: list[Any]  # prompts to judge on
    texts: list[Demonstration]  # the language


def main() -> None:
    """Measure what the output file lacks, then print all tables."""
    torch.set_num_threads(1)
    OUTPUT.parent.mkdir(exist_ok=True)
    for seed in SEEDS:
        arms = all_arms()
        have = {(row["seed"], row["arm"]) for row in rows_so_far()}
        missing = [name for name in arms if (seed, name) not in have]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            start = prepare(Path(folder), seed)
            for name in missing:
                row = {"seed": seed, "arm": name, **arms[name](start, name)}
                with OUTPUT.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    tell(rows_so_far())


def rows_so_far() -> list[dict[str, Any]]:
    """Return what has been measured."""
    return [json.loads(line) for line in OUTPUT.read_text(encoding="utf-8").splitlines()] if OUTPUT.exists() else []


def all_arms() -> dict[str, Callable[[Start, str], dict[str, Any]]]:
    """Return what is trained, by name."""
    arms: dict[str, Callable[[Start, str], dict[str, Any]]] = {"start": lambda start, _: judge(start, "start", None)}
    for value in COEFFICIENTS:
        arms[f"ppo {value:g}"] = lambda start, name, value=value: ppo(start, name, kl_coefficient=value)  # type: ignore[misc]
    for value in BETAS:
        arms[f"dpo {value:g}"] = lambda start, name, value=value: dpo(start, name, value)  # type: ignore[misc]
    for iterations in LONG:
        for way in ("single", "mean", "worst", "models"):
            arms[f"{way} {iterations}"] = lambda start, name, way=way, n=iterations: unbounded(start, name, way, n)  # type: ignore[misc]
    for value in PRETRAINING:
        arms[f"ptx {value:g}"] = lambda start, name, value=value: ppo(  # type: ignore[misc]
            start, name, kl_coefficient=0.02, ptx_coefficient=value, ptx_batch_size=32
        )
    return arms


def prepare(folder: Path, seed: int) -> Start:
    """Train what a seed starts from."""
    world = tiny_world.World(seed)
    policy = tiny_world.speaker(folder, world, seed)
    asked = tiny_world.prompts(world, 300, seed)
    held_out = tiny_world.prompts(world, 200, seed, split="held_out")
    rows = tiny_world.comparisons(
        world, tiny_world.answers(folder / "answers", policy, asked, 4, seed), seed, noise=2.0
    )
    optim = {"learning_rate": 1e-3, "batch_size": 16, "epochs": 2}
    heads, single, models = (
        tiny_world.run(
            folder / f"reward{number}",
            "reward",
            policy,
            {**size, "optim": optim},
            {"comparisons": rows},
            seed=seed,
        )
        / "final"
        for number, size in enumerate(({"heads": 4}, {"heads": 1}, {"models": 4}))
    )
    texts = tiny_world.demonstrations(world, 1000, seed + 1000)
    return Start(folder, world, seed, policy, heads, single, models, rows, asked, held_out, texts)


def ppo(start: Start, name: str, judge_folder: Path | None = None, **options: Any) -> dict[str, Any]:
    """Train a policy by PPO; return its judgement with the reward over sqrt(KL) along the way."""
    data = {"prompts": start.asked, "demonstrations": start.texts}
    settings = {**PPO, "reward_model": str(judge_folder or start.heads), **options}
    folder = tiny_world.run(start.folder / name, "ppo", start.policy, settings, data, seed=start.seed)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    path = [[max(0.0, step["kl"]) ** 0.5, step["reward"]] for step in steps]
    return {**judge(start, name, folder / "final"), "path": path}


def unbounded(start: Start, name: str, way: str, iterations: int) -> dict[str, Any]:
    """Train without a penalty on one head, on four by their mean or their worst, or on the worst of four models."""
    judge_folder = {"single": start.single, "models": start.models}.get(way, start.heads)
    ensemble = "worst" if way in ("worst", "models") else "mean"
    return ppo(start, name, judge_folder, kl_coefficient=0.0, iterations=iterations, reward_ensemble=ensemble)


def dpo(start: Start, name: str, beta: float) -> dict[str, Any]:
    """Train a policy by DPO on the rankings themselves."""
    options = {"beta": beta, "optim": {"learning_rate": 3e-4, "batch_size": 16, "epochs": 3}}
    folder = tiny_world.run(
        start.folder / name, "dpo", start.policy, options, {"comparisons": start.rows}, seed=start.seed
    )
    return judge(start, name, folder / "final")


def judge(start: Start, name: str, policy: Path | None) -> dict[str, Any]:
    """Return KL, reward (four heads' mean) and gold of a policy's answers, and its loss on texts of the language."""
    options = {
        "policies": [] if policy is None else [{"name": "policy", "model": str(policy)}],
        "baseline": "start",
        "reward_model": str(start.heads),
        "sampling": {**PPO["sampling"], "batch_size": 256},  # type: ignore[dict-item]
        "samples_per_prompt": 4,
    }
    data = {"prompts": start.held_out, "comparisons": start.rows}
    folder = tiny_world.run(start.folder / f"judge {name}", "evaluate", start.policy, options, data, seed=start.seed)
    wanted = "start" if policy is None else "policy"
    samples = [sample for sample in tiny_world.samples_of(folder) if sample.policy == wanted]
    return {
        "kl": statistics.fmean(sample.kl or 0.0 for sample in samples),
        "reward": statistics.fmean(sample.reward or 0.0 for sample in samples),
        "gold": statistics.fmean(start.world.gold(sample.text) for sample in samples),
        "tokens": statistics.fmean(sample.tokens for sample in samples),
        "language_loss": language_loss(policy or start.policy, start.texts),
    }


@torch.no_grad()
def language_loss(policy: Path, texts: list[Demonstration]) -> float:
    """Return the mean negative log-likelihood, in nats a token, of the held-out texts."""
    model = modeling.load_policy(str(policy), torch.float32, torch.device("cpu"))
    words = modeling.load_tokenizer(str(policy))
    kept = [row for row in texts if row.split == "held_out"]
    trees = [encode(words, row.messages, [row.completion], 64, Truncation()) for row in kept]
    batch = collate(trees, torch.device("cpu"), "rows")
    return -modeling.completion_logps(model, batch).mean().item()


def tell(rows: list[dict[str, Any]]) -> None:
    """Print a table of means over seeds with standard errors, and how straight reward over sqrt(KL) is."""
    console = Console(width=110)
    table = Table("policy", "seeds", "KL, nats", "reward model", "gold", "language loss", "words and end")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        here = [row for row in rows if row["arm"] == arm]
        cells = [
            tiny_world.mean_and_error([row[key] for row in here])
            for key in ("kl", "reward", "gold", "language_loss", "tokens")
        ]
        table.add_row(arm, str(len(here)), *(f"{mean:.2f} ± {error:.2f}" for mean, error in cells))
    console.print(table)
    straight: dict[str, list[float]] = {row["arm"]: [] for row in rows if row["arm"].startswith("ppo")}
    for row in rows:
        if row["arm"] in straight:
            straight[row["arm"]].append(r_squared(row["path"]))
    for arm, values in straight.items():
        console.print(f"{arm}: R² of reward over sqrt(KL) along the run " + ", ".join(f"{v:.3f}" for v in values))


def r_squared(path: list[list[float]]) -> float:
    """Return the share of the reward's variance that a straight line over sqrt(KL) explains."""
    xs, ys = zip(*path, strict=True)
    if len(set(xs)) < 2:
        return math.nan
    return statistics.correlation(xs, ys) ** 2
