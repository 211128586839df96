"""AdamW, its learning-rate schedule and one guarded update. The schedule is a function of the step alone.

Precision: with LoRA the base stays frozen in the run's precision and the adapters are float32 (they are small, and
small updates would be lost to bfloat16's rounding). Full fine-tuning keeps float32 weights. Either way the forward
runs under `Device.autocast`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from trainer import shards
from trainer.config import ConfigError, Optim
from trainer.records import DivergedError


def build(parameters: Iterable[nn.Parameter], optim: Optim, heads: Iterable[nn.Parameter] = ()) -> torch.optim.AdamW:
    """Return AdamW over the parameters that require a gradient; vectors (norms, biases) and `heads` never decay."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    spared = {id(parameter) for parameter in heads} | {id(parameter) for parameter in trainable if parameter.ndim < 2}
    groups = [
        {"params": [p for p in trainable if id(p) not in spared], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if id(p) in spared], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=optim.learning_rate,
        betas=(optim.beta1, optim.beta2),
        eps=optim.epsilon,
        fused=True,
    )


def check_gradients(model: nn.Module) -> None:
    """Refuse to go on where the first backward pass gave no adapter a gradient: nothing would ever be learned."""
    adapters = [p for name, p in model.named_parameters() if "lora_B" in name and p.requires_grad]
    if adapters and not any(p.grad is not None and bool(p.grad.any()) for p in adapters):
        raise ConfigError(
            "No gradient reaches the adapters, so training would change nothing; "
            "let lora.targets name layers that the model's output depends on."
        )


def learning_rate(optim: Optim, step: int, total_steps: int) -> float:
    """Return the rate of `step` (from 1): a linear warm-up, then constant, linear to 0, or a cosine to a tenth."""
    warmup = math.ceil(optim.warmup_fraction * total_steps)
    if step <= warmup:
        return optim.learning_rate * step / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    if optim.schedule == "linear":
        # The last step still moves: it would be wasted at a rate of exactly 0.
        return optim.learning_rate * (1 - done * (1 - 1 / max(1, total_steps - warmup)))
    if optim.schedule == "cosine":
        return optim.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
    return optim.learning_rate


def update(
    optimizer: torch.optim.Optimizer, loss: float, optim: Optim, step: int, total_steps: int
) -> tuple[float, float]:
    """Clip the accumulated gradients, take one step, clear them; return (learning rate, gradient norm before clipping).

    Raises `DivergedError` when the loss or the gradient is not finite, before any weight is touched.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = float(shards.whole(torch.nn.utils.clip_grad_norm_(parameters, optim.grad_clip)))
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise DivergedError(
            f"Training diverged at step {step}: the loss is {loss} and the gradient norm {norm}; "
            "lower optim.learning_rate or use precision float32."
        )
    rate = learning_rate(optim, step, total_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return rate, norm
