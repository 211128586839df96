"""The demo's settings: what each step of the loop is asked to do, and how long it about takes on two cores.

The values were chosen by the experiments in docs/log.md. They fit a model of 135 million parameters and six minutes,
not a real project.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

K = 4
OVERLAP = 3
HELD_OUT_PERCENT = 33
MAX_LENGTH = 256

SAMPLING = {"temperature": "0.8", "max_new_tokens": "48"}
CHAT = {"weight": "10", "temperature": "0.8", "max_tokens": "96"}


@dataclass(frozen=True)
class Training:
    """The form of a training or evaluation run: what is typed into its fields, and the options beyond them."""

    fields: dict[str, str]
    advanced: dict[str, Any] = field(default_factory=dict)


SFT = Training({"learning_rate": "0.001", "batch_size": "8", "epochs": "2", "lora_rank": "16"})
REWARD = Training({"learning_rate": "0.001", "batch_size": "2", "epochs": "1", "lora_rank": "16"})
DPO = Training({"learning_rate": "0.0003", "batch_size": "4", "epochs": "1", "lora_rank": "16", "beta": "0.1"})
PPO = Training(
    {
        "learning_rate": "0.0004",
        "batch_size": "24",
        "iterations": "6",
        "kl_coefficient": "0.05",
        "lora_rank": "16",
        "max_new_tokens": "48",
    },
    {"ppo_epochs": 1, "minibatches": 2},
)
EVALUATE = Training(
    {"samples_per_prompt": "2", "temperature": "0.7", "max_new_tokens": "48"}, {"sampling": {"batch_size": 64}}
)

# Seconds of each step on two idle cores: they only weigh the bar of the whole demo.
SECONDS = {
    "sample": 45,
    "label": 15,
    "sft": 25,
    "reward": 60,
    "dpo": 65,
    "ppo": 75,
    "evaluate": 45,
    "next": 20,
}
