"""The pretraining mix of PPO-ptx (Ouyang et al. 2022, 3.5): texts that the policy should not unlearn.

L = L_ppo - gamma E[log pi(x)], the expectation a mean over tokens. InstructGPT's gamma of 27.8 belongs to another
scaling (a sum over tokens beside a mean over episodes); here 1 weighs a text's token like an answer's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import data, modeling
from trainer.config import ConfigError
from trainer.layout import Layout
from trainer.losses import sft_loss
from trainer.records import Demonstration
from trainer.stored import StoredDemonstrations
from trainer.tree import Tree


def read(
    run_dir: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, truncation: data.Truncation
) -> Sequence[Tree]:
    """Return the demonstrations to train on, made to trees as they are asked for. All are read once to count cuts.

    Raises `ConfigError` where there are none.
    """
    path = run_dir / "data" / "demonstrations.jsonl"

    def as_tree(row: Demonstration, cuts: data.Truncation) -> Tree:
        return data.encode(tokenizer, row.messages, [row.completion], max_length, cuts)

    texts = StoredDemonstrations(path, "train", as_tree, truncation) if path.exists() else []
    if not len(texts):
        raise ConfigError(
            "options.ptx_coefficient is above 0, but data/demonstrations.jsonl has no demonstration in the train split "
            "to mix in; add some or set it to 0."
        )
    deque(texts, maxlen=0)
    return texts


def backward(model: PreTrainedModel, texts: Sequence[Tree], coefficient: float, layout: Layout) -> float:
    """Add the gradient of the mix and return its loss, the mean cross-entropy of the texts' tokens in nats."""
    count = sum(text.asked for text in texts)
    total = 0.0
    for _, batch in layout.batches(texts):
        with layout.device.autocast():
            logps = modeling.completion_logps(model, batch)
        loss = sft_loss(logps, torch.full_like(logps, 1 / count))
        torch.autograd.backward(coefficient * loss)
        total += loss.item()
    return total
