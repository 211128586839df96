"""SFT on texts of many lengths: our packed rows beside TRL's packing, same weights, ids, order and updates.

A random Llama of 6 layers and width 256; eight texts an update, prompts of 16 to 160 tokens and answers of 16 to 200,
whose loss is on the answers alone. TRL gets each update's eight texts laid end to end without any padding, as its
"bfd" packing would lay them at best; how we lay them is up to us. Random tokens, so this says nothing of quality; the
losses of both are printed because they must be the same.
"""

from __future__ import annotations

import copy
import random
import tempfile
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench import race
from tests.trainer.builders import build_tokenizer
from trainer import modeling, optim, sft
from trainer.config import Optim
from trainer.device import Device
from trainer.tree import Tree

TEXTS, BATCH, ROUNDS, VOCABULARY, RATE = 64, 8, 3, 4096, 1e-4


def main() -> None:
    """Race in TRL's environment."""
    race.in_peer_environment("bench.sft_speed")


def new_model() -> Any:
    """Return a random Llama of 6 layers and width 256."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def ours(model: Any, trees: list[Tree]) -> race.Lap:
    """Train on eight texts an update."""
    settings = Optim(learning_rate=RATE, schedule="constant", warmup_fraction=0.0, beta2=0.999)
    layout = modeling.choose_layout(model.eval(), 2048, Device(torch.device("cpu"), torch.float32))
    modeling.prepare_training(model, settings, layout.device)
    optimizer = optim.build(model.parameters(), settings)

    def train() -> list[float]:
        losses = []
        for step, start in enumerate(range(0, len(trees), BATCH), start=1):
            part = trees[start : start + BATCH]
            loss, _ = sft.backward(model, part, [1.0] * len(part), layout)
            optim.update(optimizer, loss, settings, step, len(trees) // BATCH)
            losses.append(loss)
        return losses

    return race.timed(model.base_model, train)


def peer(model: Any, trees: list[Tree]) -> race.Lap:
    """Train TRL's SFTTrainer on the same eight texts an update, packed into one row."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = []
    for start in range(0, len(trees), BATCH):
        part = trees[start : start + BATCH]
        rows.append(
            {
                "input_ids": [token for tree in part for token in tree.prompt + tree.completions[0]],
                "labels": [label for tree in part for label in [-100] * len(tree.prompt) + tree.completions[0]],
                "seq_lengths": [tree.length for tree in part],
            }
        )
    with tempfile.TemporaryDirectory() as folder:
        settings = race.one_pass(
            SFTConfig,
            folder,
            RATE,
            packing=True,
            max_length=4096,
            dataset_kwargs={"skip_prepare_dataset": True},
            completion_only_loss=False,  # the labels say it already
            per_device_train_batch_size=1,
            remove_unused_columns=False,
        )
        trainer = SFTTrainer(
            model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=build_tokenizer()
        )
        return race.timed_peer(model.base_model, trainer)


def run() -> None:
    """Race on the same texts."""
    race.only_in_peer_environment()
    torch.set_num_threads(1)
    draw = random.Random(0)

    def tokens(least: int, most: int) -> list[int]:
        return [draw.randrange(300, VOCABULARY) for _ in range(draw.randint(least, most))]

    trees = [Tree(tokens(16, 160), [tokens(16, 200)]) for _ in range(TEXTS)]
    first = new_model()
    race.race(
        f"sft_speed: {TEXTS} texts of {sum(tree.length for tree in trees)} tokens, {BATCH} an update, {ROUNDS} rounds",
        lambda: ours(copy.deepcopy(first), trees),
        lambda: peer(copy.deepcopy(first), trees),
        ROUNDS,
        "tokens",
        sum(tree.length for tree in trees),
        race.floor(first.model, first.lm_head, trees),
    )


if __name__ == "__main__":
    run()
