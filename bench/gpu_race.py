"""Training on one GPU, ours beside TRL's in turns: seconds, token positions, memory, and our share of the peak.

    python -m bench gpu-race                    every method on a model of 1.1 billion weights, some five minutes
    python -m bench.gpu_race --size small --prompts 32 --rounds 3 reward-4 reward-9 ppo

SFT, DPO and reward models are TRL 1.16's, PPO is 1.12's, the last one that has it (`bench.ppo_sides`). The same random
Llama, the same ids and the same updates on both sides; prompts of 512 tokens and answers of 256, so that nothing is
padded on either. Products are in bfloat16 and weights in float32 on both (TRL's PPO is all in bfloat16), and a forward
holds about as many tokens. Of the rounds' seconds the least counts; memory is what the GPU held at most on that side.
TRL keeps its defaults but for what is the same on both: no activations are computed again, the reference is known
before, attention is torch's.

A round that would begin after `--budget` seconds is left out, so that ten minutes are enough. Without a GPU the same
runs with a tiny model in float32, as a check of the command that says nothing of speed.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PrinterCallback, TrainerCallback

from bench import ppo_sides, race, steps
from bench.steps import WARM, Method, Size
from tests.trainer.builders import build_tokenizer
from trainer import flops
from trainer.device import Device

SIZES = {"tiny": steps.TINY, "small": steps.SMALL, "large": steps.LARGE}
STORED: dict[str, tuple[Method, int]] = {
    "sft": ("sft", 1),
    "dpo": ("dpo", 2),
    "reward-4": ("reward", 4),
    "reward-9": ("reward", 9),
}
"""What learns from stored answers: the method, and how many answers a prompt has."""
METHODS = (*STORED, "ppo")
ANSWERS = 4  # to each prompt of PPO
COLUMNS = (
    "method",
    "seconds, ours",
    "TRL",
    "ratio",
    "positions, ours",
    "TRL",
    "ratio",
    "MFU, ours",
    "MiB, ours",
    "TRL",
)


class Lap(NamedTuple):
    """What one side took for some steps, or for an iteration of PPO. `work` are the operations it takes at least."""

    seconds: float
    positions: int
    memory: float
    loss: float = 0.0
    work: float = 0.0


def main() -> None:
    """Race every method."""
    start([])


def start(arguments: Sequence[str]) -> None:
    """Race in the environments of both versions of TRL."""
    given = options_of(arguments)
    ends = time.monotonic() + given.budget
    for peer, methods in ((race.TRL, STORED), (ppo_sides.PEER, ("ppo",))):
        names = [name for name in methods if name in (given.methods or METHODS)]
        if names:
            rest = [word for word in arguments if word not in METHODS]
            left = f"--budget={ends - time.monotonic()}"
            race.in_peer_environment("bench.gpu_race", "--here", *rest, left, *names, peer=peer)


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser("python -m bench.gpu_race")
    parser.add_argument("--size", choices=SIZES, default="large" if gpu else "tiny")
    parser.add_argument("--prompts", type=int, default=16 if gpu else 4, help="prompts a step")
    parser.add_argument("--steps", type=int, default=3, help=f"steps a round, after {WARM} that do not count")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which no round begins")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("methods", nargs="*", choices=[[], *METHODS], metavar="METHOD", help=", ".join(METHODS))
    return parser.parse_args(list(arguments))


def here(arguments: Sequence[str]) -> None:
    """Race in this environment, and print a row as soon as it is known."""
    race.only_in_peer_environment()
    first, _, _ = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = first  # TRL takes all that it sees
    given = options_of(arguments)
    size = SIZES[given.size]._replace(prompts=given.prompts)
    gpu = torch.cuda.is_available()
    device = Device(torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if gpu else torch.float32)
    name = torch.cuda.get_device_name() if gpu else "no GPU: float32 on the CPU, to check the command"
    print(
        f"\ngpu-race: {name}, torch {torch.__version__}, {size.name}, {size.prompts} prompts of {size.prompt} and "
        f"answers of {size.answer}, {given.steps} steps after {WARM}, {given.rounds} rounds"
    )
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    ends = time.monotonic() + given.budget
    with tempfile.TemporaryDirectory() as folder:
        for method in given.methods:
            sides = pair(method, size, device, given.steps, Path(folder))
            laps = in_turns(sides, given.rounds, ends, device)
            print(row(method, *laps, device) if all(laps) else f"| {method} | no time was left |", flush=True)


def pair(
    method: str, size: Size, device: Device, count: int, folder: Path
) -> tuple[Callable[[], Lap], Callable[[], Lap]]:
    """Return our side and TRL's, to be run again and again."""
    if method == "ppo":
        case = ppo_case(size, device)
        ppo_sides.write_models(folder, case)
        return lambda: ppo_lap(*ppo_sides.ours(folder, case)), lambda: ppo_lap(ppo_sides.peer(folder, case))
    kind, answers = STORED[method]
    return lambda: ours(kind, answers, size, device, count), lambda: peer(kind, answers, size, device, count)


def in_turns(
    sides: Sequence[Callable[[], Lap]], rounds: int, ends: float, device: Device
) -> tuple[list[Lap], list[Lap]]:
    """Run both in turns and return their laps; no round begins after `ends`."""
    laps: tuple[list[Lap], list[Lap]] = ([], [])
    for _ in range(rounds):
        if time.monotonic() > ends:
            break
        for found, side in zip(laps, sides, strict=True):
            gc.collect()
            if device.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            found.append(side())
    return laps


def row(method: str, mine: Sequence[Lap], theirs: Sequence[Lap], device: Device) -> str:
    """Return the row of a method; the last losses stand behind it, because they must be the same."""
    own, other = (min(lap.seconds for lap in laps) for laps in (mine, theirs))
    found = flops.share_of_peak(mine[0].work, own, flops.peak(device.device, device.dtype))
    memory = [f"{laps[0].memory:,.0f}" if device.device.type == "cuda" else "-" for laps in (mine, theirs)]
    cells = (
        method,
        f"{own:.2f}",
        f"{other:.2f}",
        f"{other / own:.1f}",
        f"{mine[0].positions:,}",
        f"{theirs[0].positions:,}",
        f"{theirs[0].positions / mine[0].positions:.1f}",
        f"{found['mfu']:.1%}" if found else "-",
        *memory,
    )
    losses = f" losses {mine[0].loss:.4f} and {theirs[0].loss:.4f}" if method in STORED else ""
    return f"| {' | '.join(cells)} |{losses}"


# --- What learns from stored answers. --------------------------------------------------------------------------------


def ours(method: Method, answers: int, size: Size, device: Device, count: int) -> Lap:
    """Take some steps of ours."""
    timed = steps.run(method, answers, size, steps.optimiser(size), device, count, None)
    return Lap(timed.seconds, timed.positions, timed.peak_memory_mb, timed.loss, timed.flops)


def peer(method: Method, answers: int, size: Size, device: Device, count: int) -> Lap:
    """Take the same steps with a trainer of TRL."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, trunk = trainer_of(method, answers, size, device, count, folder)
        trainer.remove_callback(PrinterCallback)
        with race.counting(trunk) as positions:
            clock = Clock(positions, device, WARM)
            trainer.add_callback(clock)
            trainer.train()
            losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
            return Lap(clock.seconds, sum(positions), device.peak_memory_mb(), losses[-1])


class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Begins to count after some steps, and measures to the end of the last one."""

    def __init__(self, positions: list[int], device: Device, warm: int) -> None:
        self._positions, self._device, self._warm = positions, device, warm
        self._started = 0.0
        self.seconds = 0.0

    def on_step_end(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
        """Be told that a step has been taken."""
        steps.wait(self._device)
        if state.global_step == self._warm:
            self._positions.clear()
            self._started = time.perf_counter()
        self.seconds = time.perf_counter() - self._started


def trainer_of(
    method: Method, answers: int, size: Size, device: Device, count: int, folder: str
) -> tuple[Any, torch.nn.Module]:
    """Return TRL's trainer of a method with all that it needs, and its model below the head."""
    import trl
    from datasets import Dataset

    kinds: dict[Method, tuple[Any, Any, dict[str, Any]]] = {
        "sft": (trl.SFTTrainer, trl.SFTConfig, {"dataset_kwargs": {"skip_prepare_dataset": True}, "packing": False}),
        "dpo": (trl.DPOTrainer, trl.DPOConfig, {"precompute_ref_log_probs": True}),
        "reward": (trl.RewardTrainer, trl.RewardConfig, {}),
    }
    kind, settings, more = kinds[method]

    class Tokenized(kind):  # type: ignore[misc, valid-type]  # a class that is an argument
        """The trainer, given ids that are ready."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    rows = rows_of(method, answers, size)
    texts = 1 if method == "sft" else 2  # of a row
    together = largest_part(len(rows), size.forward // (texts * (size.prompt + size.answer)))
    model = steps.llama(size, device, LlamaForSequenceClassification if method == "reward" else LlamaForCausalLM)
    trainer = Tokenized(
        model=model,
        args=settings(
            output_dir=folder,
            max_steps=count + WARM,
            learning_rate=steps.RATE,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            logging_steps=1,
            per_device_train_batch_size=together,
            gradient_accumulation_steps=len(rows) // together,
            max_length=None,
            remove_unused_columns=False,
            **more,
            **race.plain(gpu=device.device.type == "cuda"),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=build_tokenizer(),
    )
    return trainer, model.base_model


def rows_of(method: Method, answers: int, size: Size) -> list[dict[str, Any]]:
    """Return one step's rows as TRL takes them."""
    trees = steps.trees_of(size, answers)
    if method == "sft":
        return [
            {"input_ids": one.prompt + said, "labels": [-100] * len(one.prompt) + said}
            for one in trees
            for said in one.completions
        ]
    pairs = [(one.prompt, *two) for one in trees for two in itertools.combinations(one.completions, 2)]
    if method == "dpo":
        return [{"prompt_ids": asked, "chosen_ids": better, "rejected_ids": worse} for asked, better, worse in pairs]
    return [{"chosen_ids": asked + better, "rejected_ids": asked + worse} for asked, better, worse in pairs]


def largest_part(whole: int, most: int) -> int:
    """Return the largest divisor of a number that is not above `most`, or 1."""
    return max(part for part in range(1, whole + 1) if whole % part == 0 and part <= max(1, most))


# --- PPO. ------------------------------------------------------------------------------------------------------------


def ppo_case(size: Size, device: Device) -> ppo_sides.Case:
    """Return an iteration of PPO with four answers to each prompt."""
    episodes = ANSWERS * size.prompts
    together = max(ANSWERS, largest_part(episodes, size.forward // (size.prompt + size.answer)))
    return ppo_sides.Case("ppo", size, ANSWERS, together, episodes=episodes, gpu=device.device.type == "cuda")


def ppo_lap(took: ppo_sides.Took, work: float = 0.0) -> Lap:
    """Return the lap of an iteration."""
    return Lap(took.seconds, took.tokens, took.peak, work=work)


if __name__ == "__main__":
    here(sys.argv[1:]) if "--here" in sys.argv else start(sys.argv[1:])
