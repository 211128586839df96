"""What the options of several methods are made of: adapters, optimiser, sampling. Standard library only.

A value out of range raises `ConfigError` with one sentence that names the key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


class ConfigError(ValueError):
    """The run cannot start as configured; `str(error)` is a sentence for the person who wrote it."""


def require(condition: bool, sentence: str) -> None:
    """Raise `ConfigError` with the sentence unless the condition holds."""
    if not condition:
        raise ConfigError(sentence)


RANKING = "ranking"
"""The name of a reward model's head for the ranking itself, beside those of criteria."""


def weights_of(words: tuple[str, ...]) -> dict[str, float]:
    """Return the weights by name of `("helpful", "honest=0.5")`: 1 where none is given; raise `ConfigError`."""
    found: dict[str, float] = {}
    for word in words:
        name, given, text = word.replace(" ", "").partition("=")
        try:
            weight = float(text) if given else 1.0
        except ValueError:
            weight = math.nan
        require(
            bool(name) and math.isfinite(weight), f"{word!r} must be a name, or a name and its weight as in honest=0.5."
        )
        require(name not in found, f"{name} is named twice.")
        found[name] = weight
    return found


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021) on the named linear layers; "all-linear" means every one but the head."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora.rank must be at least 1.")
        require(self.alpha > 0, "lora.alpha must be above 0.")
        require(len(self.targets) > 0, "lora.targets must name at least one layer.")


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule. `batch_size` counts prompts a step; they are split to fit `tokens_per_forward`.

    `recompute_activations` keeps only what goes into each layer and computes the rest again backwards: less memory, a
    third more work. `compile` makes one program of each layer (torch.compile), which takes its time at first. `shard`
    spreads weights, gradients and moments over the processes of a run on several GPUs (FSDP2), each of which otherwise
    holds all of them.
    """

    learning_rate: float = 1e-5
    batch_size: int = 8
    epochs: float = 1.0
    max_steps: int | None = None
    tokens_per_forward: int = 2048
    warmup_fraction: float = 0.05
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    recompute_activations: bool = False
    compile: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < 1, "optim.learning_rate must be between 0 and 1.")
        require(self.batch_size >= 1, "optim.batch_size must be at least 1.")
        require(self.epochs > 0, "optim.epochs must be above 0.")
        require(self.max_steps is None or self.max_steps >= 1, "optim.max_steps must be at least 1, or null.")
        require(self.tokens_per_forward >= 64, "optim.tokens_per_forward must be at least 64.")
        require(0 <= self.warmup_fraction < 1, "optim.warmup_fraction must be in [0, 1).")
        require(self.grad_clip > 0, "optim.grad_clip must be above 0.")
        require(not (self.shard and self.compile), "optim.shard and optim.compile do not go together.")


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. PPO takes no `top_p`: its log-probabilities assume the whole distribution."""

    max_new_tokens: int = 128
    temperature: float = 0.7
    top_p: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        require(1 <= self.max_new_tokens <= 8192, "sampling.max_new_tokens must be from 1 to 8192.")
        require(0 <= self.temperature <= 5, "sampling.temperature must be from 0 (greedy) to 5.")
        require(0 < self.top_p <= 1, "sampling.top_p must be in (0, 1].")
        require(self.batch_size >= 1, "sampling.batch_size must be at least 1.")
