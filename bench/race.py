"""Racing ours against a peer in one process, in turns: token positions forwarded, CPU seconds, losses.

The peer has a virtual environment of its own, made on first use: its exact version and what it needs beyond us, with
our own packages in sight, so that both run on the same torch and transformers. The product needs none of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import peers

ROOT = peers.ROOT
TRL = "trl==1.16.0"


class Lap(NamedTuple):
    """What one training run took. `tokens` are positions that went through the trunk, padding included."""

    tokens: int
    cpu_seconds: float
    losses: list[float]


def in_peer_environment(module: str, *arguments: str, peer: str = TRL) -> None:
    """Run `python -m module` in the environment of the peer, which is made where it is not there yet.

    Says so and does nothing where it cannot be made, as without a network.
    """
    ours = Path(torch.__file__).parent.parent
    programs = peers.environment(peer, ["-c", "constraints.txt", "datasets>=4"], ours=ours)
    if programs is None:
        return
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    environment = {
        **os.environ,
        **quiet,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    subprocess.run(
        [programs / "python", "-W", "ignore", "-m", module, *arguments], cwd=ROOT, env=environment, check=True
    )


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


def race(title: str, ours: Callable[[], Lap], peer: Callable[[], Lap], rounds: int, unit: str, count: int) -> None:
    """Run both in turns and print one line; the least of the CPU times counts, since other work only adds to them."""
    laps: dict[str, list[Lap]] = {"ours": [], "peer": []}
    for number in range(1, rounds + 1):
        for name, run in (("ours", ours), ("peer", peer)):
            laps[name].append(run())
            print(
                f"  round {number}, {name}: {laps[name][-1].cpu_seconds:.1f} CPU seconds", file=sys.stderr, flush=True
            )
    (mine, mine_best), (theirs, theirs_best) = (
        (found[0], min(lap.cpu_seconds for lap in found)) for found in laps.values()
    )
    pairs = sorted(other.cpu_seconds / own.cpu_seconds for own, other in zip(laps["ours"], laps["peer"], strict=True))
    print(
        f"{title}: tokens {mine.tokens} against {theirs.tokens} ({theirs.tokens / mine.tokens:.1f} times fewer); "
        f"{unit} a CPU second {count / mine_best:.2f} against {count / theirs_best:.2f} "
        f"({theirs_best / mine_best:.1f} times, in the rounds {pairs[0]:.1f} to {pairs[-1]:.1f}); "
        f"first loss {mine.losses[0]:.4f} and {theirs.losses[0]:.4f}, last {mine.losses[-1]:.4f} and "
        f"{theirs.losses[-1]:.4f}",
        flush=True,
    )


def only_in_peer_environment() -> None:
    """Leave with a sentence where the peer is not installed."""
    try:
        import trl  # noqa: F401  # the check itself
    except ImportError:
        sys.exit("This half of the bench runs in the environment that `python -m bench` makes for it.")
