"""PPO's speed and memory: ours beside TRL 1.12, the last one that has PPO, on equal batches, epochs and lengths.

A random Llama of 4 layers and width 256 over 4,096 words, in float32; prompts of 128 tokens and answers of 64, or of
many lengths up to these (`bench.ppo_sides`). Every run is a process of its own, so that its peak memory is its own; CPU
seconds and tokens are of training alone, after the models are loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import ppo_sides, race
from bench.ppo_sides import EPOCHS, Case
from bench.steps import Size

ROUNDS = 2
SIZE = Size("random Llama of 4 layers and width 256", 256, 688, 4, 4, 4, 4096, 128, 64, 32, 1536)
CASES = (
    Case("all weights, one answer a prompt", SIZE, 1, 8),
    Case("all weights, one answer a prompt, forwards of four answers", SIZE, 1, 4),
    Case("all weights, four answers a prompt", SIZE, 4, 8),
    Case("LoRA, four answers a prompt", SIZE, 4, 8, lora=True),
    Case("all weights, one answer a prompt, many lengths", SIZE, 1, 8, many_lengths=True),
    Case("all weights, four answers a prompt, many lengths", SIZE, 4, 8, many_lengths=True),
)


def main() -> None:
    """Race in the environment of TRL 1.12, or say that it cannot be made."""
    race.in_peer_environment("bench.ppo_speed", peer=ppo_sides.PEER)


def child(side: str, number: str, folder: str) -> None:
    """Run one side once and print what it took; memory is what came on top of the imports."""
    if side == "peer":
        import trl.experimental.ppo  # noqa: F401  # before memory is first looked at
    case = CASES[int(number)]
    before, work = race.resident_mb(), 0.0
    if side == "ours":
        found, work = ppo_sides.ours(Path(folder) / case.folder, case)
    else:
        found = ppo_sides.peer(Path(folder) / case.folder, case)
    more = {"memory": found.peak - before, "work": work, "speed": race.product_speed()}
    print(json.dumps(found._asdict() | more))


def run() -> None:
    """Race every case, each side in processes of its own, in turns."""
    race.only_in_peer_environment()
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if not (Path(folder) / case.folder).exists():
                ppo_sides.write_models(Path(folder) / case.folder, case)
        for number, case in enumerate(CASES):
            laps: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
            for _ in range(ROUNDS):
                for side in laps:
                    command = [sys.executable, "-W", "ignore", "-m", "bench.ppo_speed", side, str(number), folder]
                    told = subprocess.run(command, cwd=race.ROOT, check=True, capture_output=True, text=True).stdout
                    laps[side].append(json.loads(told.splitlines()[-1]))
                    print(f"  {case.title}, {side}: {laps[side][-1]}", file=sys.stderr, flush=True)
            report(case, laps["ours"], laps["peer"])


def report(case: Case, mine: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """Print one line; the least of the rounds counts, since other work only adds to it."""

    def least(laps: list[dict[str, float]], key: str) -> float:
        return min(lap[key] for lap in laps)

    own, other = least(mine, "cpu"), least(theirs, "cpu")
    pairs = sorted(b["cpu"] / a["cpu"] for a, b in zip(mine, theirs, strict=True))
    memory, peak = least(mine, "memory"), least(theirs, "memory")
    tokens, others = mine[0]["tokens"], theirs[0]["tokens"]
    speed = max(lap["speed"] for lap in (*mine, *theirs))
    print(
        f"ppo_speed, {case.title}: {case.episodes} episodes, {EPOCHS} epochs, {ROUNDS} rounds; tokens {tokens:.0f} "
        f"against {others:.0f} ({others / tokens:.1f} times fewer); episodes a CPU second {case.episodes / own:.2f} "
        f"against {case.episodes / other:.2f} ({other / own:.1f} times, in the rounds {pairs[0]:.1f} to "
        f"{pairs[-1]:.1f}); {race.above_floor(mine[0]['work'], speed, own, other)}; peak memory "
        f"{memory:.0f} MiB against {peak:.0f} ({memory / peak:.0%})",
        flush=True,
    )


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) > 1 else run()
