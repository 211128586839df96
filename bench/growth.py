"""Whether cost grows with the data: whole commands on 100 to 100,000 comparisons, demonstrations or prompts.

A tiny random Llama and short texts; the same number of updates on each size, each in a process of its own. What is
compared: tokens a second of a step (of CPU time), and the process's peak of memory.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from tests.trainer.builders import build_tokenizer
from trainer import reward_model
from trainer.device import process_peak_mb
from trainer.jsonl import write_jsonl
from trainer.manifest import write_manifest
from trainer.metrics import MetricsFile
from trainer.records import Comparison, Demonstration, Message, Prompt, split_of

SIZES = {
    "reward": (100, 1_000, 10_000, 100_000),
    "dpo": (100, 1_000, 10_000, 100_000),
    "kto": (100, 1_000, 10_000, 100_000),
    "sft": (100, 1_000, 10_000, 100_000),
    "ppo": (100, 1_000, 10_000, 100_000),
}
STEPS, BATCH, ANSWERS = 40, 8, 4
WORDS = ("so", "it", "is", "not", "more", "than", "what", "one", "would", "like")


def main() -> None:
    """Measure each size and print a table with the ratios to the smallest."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_models(model)
        for method, sizes in SIZES.items():
            for size in sizes:
                rows.append(measure(Path(folder) / f"{method}-{size}", model, method, size))
                print(json.dumps(rows[-1]), flush=True)
    titles = ("rows", "data, MiB", "tokens a CPU second", "CPU s before the first step", "peak memory, MiB")
    table = Table("method", *titles)
    for row in rows:
        first = next(other for other in rows if other["method"] == row["method"])
        table.add_row(
            row["method"],
            f"{row['rows']:,}",
            f"{row['megabytes']:.1f}",
            f"{row['speed']:.0f} ({row['speed'] / first['speed']:.2f})",
            f"{row['start']:.1f}",
            f"{row['memory']:.0f} ({row['memory'] / first['memory']:.2f})",
        )
    Console(width=120).print(table)


def save_models(folder: Path) -> None:
    """Save a random Llama of two layers, and beside it in `reward` a reward model of its kind."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config.num_labels = 1
    judge = reward_model.RewardModel(LlamaForSequenceClassification(config).eval(), tokenizer)
    reward_model.save_reward(judge, folder / "reward", config.max_position_embeddings)


def comparisons(count: int) -> Iterator[Comparison]:
    """Yield rankings of four answers, prompts of about 80 and answers of about 40 characters."""
    draw = random.Random(0)

    def say(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    for number in range(count):
        messages = (Message("user", f"{say(20)} {number}"),)
        order = tuple((place,) for place in draw.sample(range(ANSWERS), ANSWERS))
        # The held-out split is small in number, not in share: judging it is no part of what is measured.
        split = split_of(messages, 20 / count)
        answers = tuple(say(10) for _ in range(ANSWERS))
        yield Comparison(f"c{number}", messages, answers, order, acceptable=ANSWERS // 2, split=split)


def as_demonstration(row: Comparison) -> Demonstration:
    """Return the best answer as one that a labeler wrote."""
    return Demonstration(row.id, row.messages, row.completions[row.ranking[0][0]], split=row.split)


def as_prompt(row: Comparison) -> Prompt:
    """Return the prompt alone."""
    return Prompt(row.id, row.messages, row.split)


FILES: dict[str, tuple[str, Callable[[Comparison], Any]]] = {
    "sft": ("demonstrations.jsonl", as_demonstration),
    "ppo": ("prompts.jsonl", as_prompt),
}
"""The file that a method reads where it is not comparisons.jsonl, and how a comparison becomes a row of it."""


def measure(folder: Path, model: Path, method: str, size: int) -> dict[str, Any]:
    """Run the command on a data set of this size in a process of its own and return what it took."""
    name, as_row = FILES.get(method, ("comparisons.jsonl", lambda row: row))
    write_jsonl(folder / "data" / name, map(as_row, comparisons(size)))
    write_manifest(folder / "data")
    options: dict[str, Any] = {
        "optim": {"learning_rate": 1e-4, "batch_size": BATCH, "epochs": 1000, "max_steps": STEPS}
    }
    if method == "ppo":
        options = {
            "reward_model": str(model / "reward"),
            "iterations": STEPS,
            "ppo_epochs": 1,
            "sampling": {"max_new_tokens": 32},
            "optim": {"learning_rate": 1e-4, "batch_size": BATCH},
        }
    run = {
        "run_id": folder.name,
        "method": method,
        "model": str(model),
        "device": "cpu",
        "precision": "float32",
        "checkpoint_steps": STEPS,
        "options": options,
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    command = [sys.executable, "-m", "bench.growth", method, str(folder)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    megabytes = (folder / "data" / name).stat().st_size / 2**20
    return {"method": method, "rows": size, "megabytes": round(megabytes, 1), **found}


def train(method: str, folder: str) -> None:
    """Train in this process and print what it took, as JSON."""
    from trainer import __main__ as trainer

    steps: list[float] = []
    write = MetricsFile.write

    def timed(*arguments: Any, **values: Any) -> None:
        steps.append(time.process_time())
        write(*arguments, **values)

    MetricsFile.write = timed  # type: ignore[method-assign]  # the end of each step, in the process's own time
    torch.set_num_threads(1)
    began = time.process_time()
    if trainer.main([method, "--run", folder]):
        sys.exit("the run failed")
    lines = map(json.loads, (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    tokens = [line["tokens"] if "tokens" in line else line["response_length"] * BATCH for line in lines]
    seconds = [after - before for before, after in itertools.pairwise(steps)]
    speed = statistics.median(count / took for count, took in zip(tokens[1:], seconds, strict=True))
    print(json.dumps({"speed": round(speed), "start": round(steps[0] - began, 1), "memory": round(process_peak_mb())}))


if __name__ == "__main__":
    train(*sys.argv[1:])
