"""The reward model on rankings of K answers: our trees beside TRL's pairs, same weights, pairs, order and updates.

A prompt of 128 tokens with K answers of 64, one prompt an update; random tokens, so this says nothing of quality. TRL
encodes both answers of each of the K (K - 1) / 2 pairs, we encode a prompt and its answers once. The losses of both are
printed because they must be the same.
"""

from __future__ import annotations

import copy
import itertools
import random
import tempfile
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from bench import race
from tests.trainer.builders import build_tokenizer
from trainer import optim, reward
from trainer.config import Optim, RewardOptions
from trainer.device import Device
from trainer.rankings import Group, Ranking
from trainer.records import Message
from trainer.reward_model import RewardModel
from trainer.tree import Tree

PROMPT, ANSWER, VOCABULARY = 128, 64, 4096
RACES = ((4, 8, 3), (9, 4, 2))  # answers, prompts, rounds
RATE = 1e-4


def main() -> None:
    """Race in TRL's environment."""
    race.in_peer_environment("bench.reward_speed")


def new_classifier() -> Any:
    """Return a random Llama of 6 layers and width 256 with a scalar head."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        num_labels=1,
        pad_token_id=0,
    )
    return LlamaForSequenceClassification(config)


def ours(classifier: Any, trees: list[Tree]) -> race.Lap:
    """Train on one tree an update."""
    device = Device(torch.device("cpu"), torch.float32)
    model = RewardModel(classifier.eval(), build_tokenizer())
    options = RewardOptions(optim=Optim(learning_rate=RATE, schedule="constant", warmup_fraction=0.0, beta2=0.999))
    layout = model.choose_layout(4096, device)
    model.prepare_training(options.optim, device)
    count = len(trees[0].completions)
    order = Ranking(tuple((k,) for k in range(count)), (), (0,) * count, 1.0, "")
    groups = [Group((Message("user", str(n)),), tree, (order,)) for n, tree in enumerate(trees)]
    optimizer = optim.build(model.parameters(), options.optim)

    def train() -> list[float]:
        losses = []
        for step, group in enumerate(groups, start=1):
            totals, _ = reward.backward(model, [group], torch.ones(1, 1), options, layout)
            optim.update(optimizer, totals["loss"], options.optim, step, len(groups))
            losses.append(totals["loss"])
        return losses

    return race.timed(model.trunk, train)


def peer(classifier: Any, trees: list[Tree]) -> race.Lap:
    """Train TRL's RewardTrainer on the pairs of one prompt an update."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = [
        {"chosen_ids": tree.prompt + better, "rejected_ids": tree.prompt + worse}
        for tree in trees
        for better, worse in itertools.combinations(tree.completions, 2)
    ]
    pairs = len(rows) // len(trees)
    with tempfile.TemporaryDirectory() as folder:
        settings = race.one_pass(
            RewardConfig,
            folder,
            RATE,
            per_device_train_batch_size=6,
            gradient_accumulation_steps=pairs // 6,
            max_length=None,
        )
        trainer = RewardTrainer(
            model=classifier, args=settings, train_dataset=Dataset.from_list(rows), processing_class=build_tokenizer()
        )
        return race.timed_peer(classifier.model, trainer)


def run() -> None:
    """Race at K = 4 and K = 9."""
    race.only_in_peer_environment()
    draw = random.Random(0)
    first = new_classifier()
    for count, prompts, rounds in RACES:
        trees = [
            Tree(
                [draw.randrange(300, VOCABULARY) for _ in range(PROMPT)],
                [[draw.randrange(300, VOCABULARY) for _ in range(ANSWER)] for _ in range(count)],
            )
            for _ in range(prompts)
        ]
        race.race(
            f"reward_speed: K = {count}, prompt {PROMPT}, answer {ANSWER}, {prompts} prompts, {rounds} rounds",
            partial(lambda trees: ours(copy.deepcopy(first), trees), trees),
            partial(lambda trees: peer(copy.deepcopy(first), trees), trees),
            rounds,
            "comparisons",
            prompts * count * (count - 1) // 2,
            race.floor(first.model, None, trees),
        )


if __name__ == "__main__":
    run()
