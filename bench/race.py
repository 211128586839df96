"""Racing ours against a peer in one process, in turns: token positions forwarded, CPU seconds, losses.

Where its exact version is not installed anyway, the peer has a virtual environment of its own, made on first use: that
version and what it needs beyond us, with our own packages in sight, so that both run on the same torch and
transformers. The product needs none of it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import peers
from trainer import flops
from trainer.device import process_peak_mb
from trainer.tree import Tree

ROOT = peers.ROOT
TRL = "trl==1.16.0"
PLAIN = {
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}
"""What every trainer of TRL is told here: float32 on the CPU, nothing saved, nothing drawn."""


def plain(*, gpu: bool) -> dict[str, Any]:
    """Return the same for a GPU, where products are in bfloat16, or for the CPU."""
    return {**PLAIN, "use_cpu": not gpu, "bf16": gpu}


class Lap(NamedTuple):
    """What one training run took. `tokens` are positions that went through the trunk, padding included.

    `memory` is in MiB, on top of the imports; 0 where it was not measured.
    """

    tokens: int
    cpu_seconds: float
    losses: list[float]
    memory: float = 0.0


def in_peer_environment(module: str, *arguments: str, peer: str = TRL) -> None:
    """Run `python -m module` where this version of the peer is: here, or in an environment that is made at first.

    Says so and does nothing where it cannot be made, as without a network.
    """
    python = Path(sys.executable)
    if not installed(peer):
        ours = Path(torch.__file__).parent.parent
        programs = peers.environment(peer, ["-c", str(other_pins(peer)), "datasets>=4"], ours=ours)
        if programs is None:
            return
        python = programs / "python"
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    environment = {
        **os.environ,
        **quiet,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    subprocess.run([python, "-W", "ignore", "-m", module, *arguments], cwd=ROOT, env=environment, check=True)


def installed(peer: str) -> bool:
    """Return whether exactly this version of the peer can be imported here."""
    name, _, version = peer.partition("==")
    try:
        return metadata.version(name) == version
    except metadata.PackageNotFoundError:
        return False


def other_pins(peer: str) -> Path:
    """Write our pinned versions but the peer's own, of which the tests may use another, and return the file."""
    name = peer.partition("==")[0]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    path = ROOT / "build" / f"{peer.replace('==', '-')}.constraints"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{pin}\n" for pin in pins if pin.partition("==")[0] != name), encoding="utf-8")
    return path


@contextmanager
def counting(*trunks: torch.nn.Module) -> Iterator[list[int]]:
    """Within the context collect how many token positions each forward of the trunks computes."""
    counts: list[int] = []

    def count(_module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        ids = keywords.get("input_ids", arguments[0] if arguments else None)
        counts.append(int(keywords["inputs_embeds"].shape[:-1].numel() if ids is None else ids.numel()))

    hooks = [trunk.register_forward_pre_hook(count, with_kwargs=True) for trunk in trunks]
    yield counts
    for hook in hooks:
        hook.remove()


def timed(trunk: torch.nn.Module, train: Callable[[], list[float]]) -> Lap:
    """Train, and return what it took."""
    with counting(trunk) as counts:
        started = time.process_time()
        losses = train()
        return Lap(sum(counts), time.process_time() - started, losses)


def in_child(module: str, *arguments: str) -> Lap:
    """Return the lap that `python -m module` tells (`tell`), a process of its own with a peak memory of its own."""
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return Lap(**json.loads(told.splitlines()[-1]))


def tell(run: Callable[[], Lap]) -> None:
    """Run, and print the lap with its memory: the peak of this process above what it holds now."""
    before = resident_mb()
    lap = run()
    print(json.dumps(lap._replace(memory=process_peak_mb() - before)._asdict()))


def resident_mb() -> float:
    """Return the memory that this process holds now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def one_pass(settings: Any, folder: str, rate: float, **more: Any) -> Any:
    """Return TRL's settings (a class such as its `DPOConfig`) for one pass over the rows as they come."""
    return settings(
        output_dir=folder,
        num_train_epochs=1,
        learning_rate=rate,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        logging_steps=1,
        **PLAIN,
        **more,
    )


def timed_peer(trunk: torch.nn.Module, trainer: Any) -> Lap:
    """Train with a trainer of TRL, and return what it took."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)

    def train() -> list[float]:
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    return timed(trunk, train)


def floor(model: Any, head: Any, trees: Sequence[Tree]) -> float:
    """Return the operations that training on these trees takes at least, each prompt read once.

    `model` is a transformers model without its head; `head` is the output layer over the vocabulary, or None.
    """
    return flops.work_of(model, model.config, head).flops(flops.load_of(trees, shared=True))


def product_speed() -> float:
    """Return the operations a second of a large matrix product on one core, the best of some."""
    size, best = 1024, math.inf
    one, other, found = (torch.rand(size, size) for _ in range(3))
    for _ in range(8):
        started = time.process_time()
        torch.mm(one, other, out=found)
        best = min(best, time.process_time() - started)
    return 2 * size**3 / best


def race(
    title: str, ours: Callable[[], Lap], peer: Callable[[], Lap], rounds: int, unit: str, count: int, work: float
) -> None:
    """Run both in turns and print one line; the least of the CPU times counts, since other work only adds to them.

    `work` is the `floor` of the whole run; what either takes is held against the time that it would take as products.
    """
    speed = product_speed()
    laps: dict[str, list[Lap]] = {"ours": [], "peer": []}
    for number in range(1, rounds + 1):
        for name, run in (("ours", ours), ("peer", peer)):
            laps[name].append(run())
            speed = max(speed, product_speed())
            print(
                f"  round {number}, {name}: {laps[name][-1].cpu_seconds:.1f} CPU seconds", file=sys.stderr, flush=True
            )
    (mine, mine_best), (theirs, theirs_best) = (
        (found[0], min(lap.cpu_seconds for lap in found)) for found in laps.values()
    )
    pairs = sorted(other.cpu_seconds / own.cpu_seconds for own, other in zip(laps["ours"], laps["peer"], strict=True))
    peaks = [min(lap.memory for lap in found) for found in laps.values()]
    memory = (
        f"; peak memory {peaks[0]:.0f} MiB against {peaks[1]:.0f} ({peaks[0] / peaks[1]:.0%})" if all(peaks) else ""
    )
    print(
        f"{title}: tokens {mine.tokens} against {theirs.tokens} ({theirs.tokens / mine.tokens:.1f} times fewer); "
        f"{unit} a CPU second {count / mine_best:.2f} against {count / theirs_best:.2f} "
        f"({theirs_best / mine_best:.1f} times, in the rounds {pairs[0]:.1f} to {pairs[-1]:.1f}); "
        f"{above_floor(work, speed, mine_best, theirs_best)}; "
        f"first loss {mine.losses[0]:.4f} and {theirs.losses[0]:.4f}, last {mine.losses[-1]:.4f} and "
        f"{theirs.losses[-1]:.4f}{memory}",
        flush=True,
    )


def above_floor(work: float, speed: float, mine: float, theirs: float) -> str:
    """Return how near to the floor both sides are, in words; both are CPU seconds."""
    least = work / speed
    return (
        f"the floor of {work / 1e9:.0f} GFLOP is {least:.1f} CPU seconds at {speed / 1e9:.0f} GFLOP a second, "
        f"{least / mine:.0%} of ours and {least / theirs:.0%} of TRL's"
    )


def only_in_peer_environment() -> None:
    """Leave with a sentence where the peer is not installed."""
    try:
        import trl  # noqa: F401  # the check itself
    except ImportError:
        sys.exit("This half of the bench runs in the environment that `python -m bench` makes for it.")
