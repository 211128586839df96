"""How many floating-point operations a step needs, and which share of the device's peak it reaches (MFU).

Counted is what the mathematics needs (Chowdhery et al. 2022, appendix B): two operations for each token and weight of a
matrix, four for each pair of tokens that see each other, head and dimension, and the output layer where tokens are
scored. Padding, masked pairs and activations that are computed again count for nothing, so waste lowers the share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from trainer.tree import Tree

# Dense bfloat16 peaks in 1e12 operations a second, from the makers' data sheets; the first name that fits counts.
PEAKS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A40": 149.7,
    "A10": 125.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "RTX A6000": 154.8,
}


class Load(NamedTuple):
    """What forwards were given: tokens, pairs of a token with one it sees (itself too), and tokens scored."""

    tokens: int = 0
    pairs: int = 0
    scored: int = 0

    def plus(self, other: Sequence[int]) -> Load:
        """Return the two together."""
        return Load(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


NO_LOAD = Load()


def load_of(trees: Sequence[Tree], *, shared: bool) -> Load:
    """Return the load of trees, with each prompt once or in front of every completion."""

    def triangle(count: int) -> int:
        return count * (count + 1) // 2

    load = NO_LOAD
    for one in trees:
        prompt, lengths = len(one.prompt), [len(completion) for completion in one.completions]
        if shared:
            pairs = triangle(prompt) + sum(length * prompt + triangle(length) for length in lengths)
            load = load.plus((one.length, pairs, one.asked))
        else:
            pairs = sum(triangle(prompt + length) for length in lengths)
            load = load.plus((prompt * len(lengths) + sum(lengths), pairs, one.asked))
    return load


class Work(NamedTuple):
    """What a model computes in one forward and backward pass for each token, each pair and each token scored."""

    token: float
    pair: float
    scored: float

    def flops(self, load: Sequence[int]) -> float:
        """Return the operations of a training step with this load."""
        tokens, pairs, scored = load
        return self.token * tokens + self.pair * pairs + self.scored * scored


def work_of(trunk: nn.Module, config: Any, head: nn.Module | None, *, causal: bool = True) -> Work:
    """Return the work of training a model of this transformers configuration.

    A backward pass is two forward passes: one for the gradient of what went in, one for that of the weights, which
    frozen weights do not have. `head` is the output layer over the vocabulary, None where there is none.
    """
    config = config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    token = sum(_matrix(module) for module in trunk.modules())
    pair = 3.0 * 4.0 * config.num_hidden_layers * heads * size
    return Work(token, pair if causal else 2 * pair, 0.0 if head is None else _matrix(head))


def _matrix(module: nn.Module) -> float:
    if not isinstance(module, (nn.Linear, Conv1D)):
        return 0.0
    return 2.0 * module.weight.numel() * (3 if module.weight.requires_grad else 2)


def peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the operations a second that a known GPU can do in bfloat16; None for whatever else."""
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for part, peak in PEAKS.items() if part in name), None)


def share_of_peak(flops: float, seconds: float, peak: float | None, processes: int = 1) -> dict[str, float]:
    """Return {"mfu": the share of the peak of all devices that was reached}; nothing where the peak is not known."""
    return {} if peak is None or seconds <= 0 else {"mfu": round(flops / seconds / (peak * processes), 4)}
