"""DPO on real pairs of the HH data: our trees beside TRL, both with their reference computed beforehand.

SmolLM2-135M-Instruct, all weights in float32, eight pairs an update, of which TRL takes four at a time, the same ids in
the same order. Timed are the updates alone; the reference's log-probabilities, which each side computes once by its own
means, are outside. Every run is a process of its own, so that its peak memory is its own. Four updates, since in the
first two a process touches most of its memory for the first time, which is not what training costs.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import tempfile
from typing import Any

import torch

from app.demo.model import ensure_model
from app.settings import get_settings
from bench import race
from trainer import dpo, modeling, optim, reference
from trainer.allocator import keep_freed
from trainer.config import DpoOptions, Optim
from trainer.data import Truncation, encode
from trainer.device import Device
from trainer.rankings import Group, Ranking
from trainer.records import Message

PAIRS, BATCH, FORWARD, TOKENS, ROUNDS, MAX_LENGTH, BETA, RATE = 32, 8, 4, 1024, 2, 512, 0.1, 1e-6
DATA = race.ROOT.parent / "shared" / "data" / "hh-rlhf" / "harmless-base-test.jsonl.gz"


def main() -> None:
    """Race in TRL's environment, on data beside the repository; without them say so and do nothing."""
    if not DATA.exists():
        print(f"dpo_speed: skipped, {DATA} is not there", file=sys.stderr)
        return
    race.in_peer_environment("bench.dpo_speed", str(ensure_model(get_settings().var / "models")))


def read_pairs(count: int) -> list[tuple[list[tuple[str, str]], str, str]]:
    """Return some conversations up to the last answer, with the chosen and the rejected one."""
    found = []
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            question, _, chosen = row["chosen"].rpartition("\n\nAssistant:")
            same, _, rejected = row["rejected"].rpartition("\n\nAssistant:")
            if same == question and chosen.strip() and rejected.strip():
                found.append((turns(question), chosen.strip(), rejected.strip()))
    random.Random(0).shuffle(found)
    return found[:count]


def turns(text: str) -> list[tuple[str, str]]:
    """Return (role, text) of each turn of HH's plain form."""
    parts = text.replace("\n\nHuman:", "\0user\0").replace("\n\nAssistant:", "\0assistant\0").split("\0")[1:]
    return [(role, said.strip()) for role, said in zip(parts[::2], parts[1::2], strict=True)]


def ours(model: Any, groups: list[Group]) -> race.Lap:
    """Train on eight trees of two answers an update."""
    options = DpoOptions(beta=BETA, optim=Optim(learning_rate=RATE, schedule="constant", warmup_fraction=0.0))
    layout = modeling.choose_layout(model.eval(), TOKENS, Device(torch.device("cpu"), torch.float32))
    modeling.prepare_training(model, options.optim, layout.device)
    before = reference.tree_logps(model, [group.tree for group in groups], layout)
    optimizer = optim.build(model.parameters(), options.optim)

    def train() -> list[float]:
        losses = []
        for step, start in enumerate(range(0, len(groups), BATCH), start=1):
            part = slice(start, start + BATCH)
            totals, _ = dpo.backward(model, groups[part], before[part], options, layout)
            optim.update(optimizer, totals["loss"], options.optim, step, len(groups) // BATCH)
            losses.append(totals["loss"])
        return losses

    return race.timed(model.base_model, train)


def peer(model: Any, tokenizer: Any, groups: list[Group]) -> race.Lap:
    """Train TRL's DPOTrainer on eight pairs an update."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Tokenized(DPOTrainer):  # type: ignore[misc]  # TRL is not there when types are checked
        """The trainer, given ids that are ready."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    rows = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, (chosen, rejected), _ in (group.tree for group in groups)
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = race.one_pass(
            DPOConfig,
            folder,
            RATE,
            beta=BETA,
            per_device_train_batch_size=FORWARD,
            gradient_accumulation_steps=BATCH // FORWARD,
            precompute_ref_log_probs=True,
            max_length=MAX_LENGTH,
            remove_unused_columns=False,
        )
        trainer = Tokenized(
            model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        return race.timed_peer(model.base_model, trainer)


def groups_of(tokenizer: Any) -> list[Group]:
    """Return the pairs as trees."""
    better = Ranking(((0,), (1,)), (), (0, 0), 1.0, "")
    groups = []
    for said, chosen, rejected in read_pairs(PAIRS):
        messages = tuple(Message(role, text) for role, text in said)
        groups.append(
            Group(messages, encode(tokenizer, messages, [chosen, rejected], MAX_LENGTH, Truncation()), (better,))
        )
    return groups


def least_work(folder: str) -> float:
    """Return the operations that one pass over the pairs takes at least, the reference known before."""
    model = modeling.load_policy(folder, torch.float32, torch.device("cpu"))
    trees = [group.tree for group in groups_of(modeling.load_tokenizer(folder))]
    return race.floor(model.base_model, model.lm_head, trees)


def lap(side: str, folder: str) -> race.Lap:
    """Load the model and train it on one side."""
    tokenizer = modeling.load_tokenizer(folder)
    model = modeling.load_policy(folder, torch.float32, torch.device("cpu"))
    groups = groups_of(tokenizer)
    return ours(model, groups) if side == "ours" else peer(model, tokenizer, groups)


def child(side: str, folder: str) -> None:
    """Run one side once and tell what it took."""
    torch.set_num_threads(1)
    if side == "ours":
        keep_freed()  # as `python -m trainer` does
    if side == "peer":
        import trl.trainer.dpo_trainer  # noqa: F401  # before memory is first looked at
    race.tell(lambda: lap(side, folder))


def run(folder: str) -> None:
    """Race on the same pairs."""
    race.only_in_peer_environment()
    race.race(
        f"dpo_speed: {PAIRS} HH pairs, {BATCH} an update, SmolLM2-135M in float32, {ROUNDS} rounds",
        lambda: race.in_child("bench.dpo_speed", "ours", folder),
        lambda: race.in_child("bench.dpo_speed", "peer", folder),
        ROUNDS,
        "pairs",
        PAIRS,
        least_work(folder),
    )


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) > 2 else run(*sys.argv[1:])
