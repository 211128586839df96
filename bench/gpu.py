"""Training steps on this machine's GPUs: tokens and comparisons a second, memory, and the share of the peak (MFU).

    python -m bench gpu

Random Llamas of 0.1 and 1.1 billion weights in bfloat16 with float32 master weights, and with LoRA; prompts of 512
tokens and answers of 256. Every method plain, with activations computed again, and compiled; where there are several
GPUs, also with each step shared among all of them. Without a GPU the same runs once with a tiny model in float32, as a
check of the command that says nothing of speed.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import torch

from bench import steps
from bench.steps import Method, Size
from trainer import parallel
from trainer.config import ConfigError, Lora
from trainer.device import Device

STEPS = 5
METHODS: tuple[tuple[Method, int], ...] = (("sft", 1), ("dpo", 2), ("reward", 4), ("reward", 9))
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {}),
    ("recomputed", {"recompute_activations": True}),
    ("compiled", {"compile": True}),
)
COLUMNS = ("model", "trained", "method", "way", "GPUs", "tokens/s", "comparisons/s", "MFU", "peak MiB")


def main() -> None:
    """Print the table, a row as soon as it is known."""
    gpus = torch.cuda.device_count()
    name = torch.cuda.get_device_name() if gpus else "no GPU: a tiny model in float32 on the CPU, to check the command"
    print(f"gpu: {name}, torch {torch.__version__}, {STEPS} steps after 2\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for size in (steps.SMALL, steps.LARGE) if gpus else (steps.TINY,):
        for lora in (None, Lora()) if gpus else (None,):
            for method, answers in METHODS:
                for way, options in WAYS if gpus else WAYS[:2]:  # compiling takes minutes on a busy CPU
                    row(method, answers, size, way, options, lora, parallel.ALONE)
                if gpus > 1:
                    together(gpus, method, answers, size, lora)


def row(
    method: Method, answers: int, size: Size, way: str, options: dict[str, Any], lora: Lora | None, team: parallel.Team
) -> None:
    """Measure one row and print it; what does not fit or cannot be compiled is a row that says so."""
    gpu = torch.cuda.is_available()
    here = torch.device("cuda", team.rank) if gpu else torch.device("cpu")
    device = Device(here, torch.bfloat16 if gpu else torch.float32, team)
    if gpu:
        torch.cuda.reset_peak_memory_stats(here)
    first = f"| {size.name} | {'LoRA' if lora else 'all'} | {method} K = {answers} | {way} | {team.size} |"
    try:
        timed = steps.run(method, answers, size, steps.optimiser(size, **options), device, STEPS, lora)
    except (ConfigError, torch.OutOfMemoryError) as error:
        print(f"{first} {str(error).splitlines()[0]} |", flush=True)
        return
    finally:
        gc.collect()
        torch.compiler.reset()
        if gpu:
            torch.cuda.empty_cache()
    pairs = answers * (answers - 1) // 2 * size.prompts * STEPS
    if team.leads:
        print(
            f"{first} {timed.tokens / timed.seconds:,.0f} | {f'{pairs / timed.seconds:,.1f}' if pairs else '-'} | "
            f"{steps.share(timed, device)} | {timed.peak_memory_mb:,.0f} |",
            flush=True,
        )


def together(gpus: int, method: Method, answers: int, size: Size, lora: Lora | None) -> None:
    """Measure a row in one process for each GPU."""
    steps.in_processes(gpus, one_of, method, answers, size, lora)


def one_of(method: Method, answers: int, size: Size, lora: Lora | None) -> None:
    """Be one of the processes."""
    rank = int(os.environ["RANK"])
    row(method, answers, size, "plain", {}, lora, parallel.join(torch.device("cuda", rank)))
    parallel.leave()
