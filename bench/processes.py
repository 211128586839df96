"""Two processes over gloo against one, on this machine's CPU: what sharing a step costs, in turns, with the same steps.

And two that hold a model each against two that share one (`optim.shard`, in `shared`): what that saves and costs.

Each process has one thread. On a machine with a core for each the seconds should halve; the CPU seconds of both
together are the honest figure on a busy one, and what they have beyond those of one process is the price.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path

import torch

from bench import steps
from bench.steps import Size
from trainer import parallel
from trainer.device import Device

SIZE = Size("random Llama of 4 layers and width 256", 256, 704, 4, 4, 4, 4096, 128, 64, 8, 1024)
STEPS, ROUNDS = 3, 3
HEAVY = Size("random Llama of 8 layers and width 768", 768, 2048, 8, 8, 8, 4096, 24, 8, 2, 256)


def main() -> None:
    """Measure in turns and print the medians and the range of the ratios."""
    print(
        f"processes: {SIZE.name}, {SIZE.prompts} prompts of {SIZE.prompt} and answers of {SIZE.answer} a step, "
        f"{STEPS} steps, {ROUNDS} rounds, load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    )
    for method, answers in (("reward", 4), ("dpo", 2)):
        rounds = [[measure(count, method, answers) for count in (1, 2)] for _ in range(ROUNDS)]
        for name, key in (("wall", "seconds"), ("CPU", "cpu")):
            ratios = [one[key] / two[key] for one, two in rounds]
            alone, both = (statistics.median(turn[n][key] for turn in rounds) for n in (0, 1))
            print(
                f"{method}: {name} seconds {alone:.2f} in one process, {both:.2f} in two, ratio "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        one, two = rounds[-1]
        print(
            f"{method}: tokens {one['tokens']} and {two['tokens']}, last loss {one['loss']:.6f} and {two['loss']:.6f}"
        )


def shared() -> None:
    """Measure what two processes hold with a model each, and with one model that they share: once, it does not vary."""
    # What is given up goes back to the system at once; else glibc keeps it in pieces, and its heap is what is measured.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    print(f"shard: {HEAVY.name}, {HEAVY.prompts} prompts of {HEAVY.prompt} and answers of {HEAVY.answer} a step")
    for name, shard in (("a model each", False), ("one model shared", True)):
        found = measure(2, "dpo", 2, HEAVY, shard)
        print(
            f"shard: {name}: peak {found['memory']:.0f} MiB a process, {found['seconds']:.2f} wall and "
            f"{found['cpu']:.2f} CPU seconds for {STEPS} steps, last loss {found['loss']:.6f}",
            flush=True,
        )


def measure(count: int, method: str, answers: int, size: Size = SIZE, shard: bool = False) -> dict[str, float]:
    """Return what the steps took in so many processes: the slowest one's seconds and memory, everyone's CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        steps.in_processes(count, one_of, method, answers, folder, size, shard)
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).iterdir())]
    largest = {key: max(one[key] for one in found) for key in ("seconds", "memory")}
    return {**found[0], **largest, "cpu": sum(one["cpu"] for one in found)}


def one_of(method: steps.Method, answers: int, folder: str, size: Size, shard: bool) -> None:
    """Be one of the processes, and write down what it took."""
    torch.set_num_threads(1)
    here = torch.device("cpu")
    device = Device(here, torch.float32, parallel.join(here))
    timed = steps.run(method, answers, size, steps.optimiser(size, shard=shard), device, STEPS, None)
    parallel.leave()
    said = {"seconds": timed.seconds, "cpu": timed.cpu_seconds, "tokens": timed.tokens, "loss": timed.loss}
    said["memory"] = timed.peak_memory_mb
    Path(folder, f"{device.team.rank}.json").write_text(json.dumps(said), encoding="utf-8")
