"""The settings of the demo's weekly form: a schedule's recipe, in which every round fine-tunes and then does DPO.

The values were chosen by the experiments in docs/log.md. The gate's thresholds, and why they are what they are:

    labelers' win rate   its lower bound at least 50 %: a policy that nobody has shown to be better is not used. The
                         bound is that of a confidence sequence, so it holds however often the schedule looks.
    reward accuracy      at least 60 % of held-out pairs: below that the reward model, which puts the queue in order and
                         stands beside the people in every table, says little more than chance.
    KL                   at most 20 nats an answer to the policy in use. Answers have at most 32 tokens; further than
                         about two thirds of a nat a token, the new policy is less a change of the old one than another.
"""

from __future__ import annotations

from typing import Any

from app.demo.plan import MAX_LENGTH, K

PROMPTS = "prompts.jsonl"
EXAM_PROMPTS = "exam_prompts.jsonl"
"""Questions that are all held out: labelers judge blind on those, and a verdict takes some dozens of them."""

OVERLAP = 3
"""Every task goes to all three labelers. A step of training reads a prompt once for all its rankings, so more of them
cost next to nothing."""

QUEUE_ORDER = "uncertainty"
ROUND_WEIGHT_PERCENT = 50
"""What a ranking weighs a round later: half, because the policy in use has moved on since."""

CRON = "* * * * *"
TIME_ZONE = "Europe/Berlin"
NAME = "Every minute, in place of every Monday"

ANSWERS = {"temperature": 0.7, "max_new_tokens": 32, "batch_size": 64}
FRESH = {**ANSWERS, "temperature": 0.8}
HOT = 1.1
FIRST_SHARES = ((3.0, None), (1.0, HOT))
"""The base model writes the first answers, by these shares at these temperatures (None: that of `FRESH`)."""

_LORA = {"rank": 16, "alpha": 32.0}
_READING = {"max_length": MAX_LENGTH}

RECIPE: dict[str, Any] = {
    "stages": [
        {"name": "data", "kind": "snapshot"},
        {
            "name": "judge",
            "kind": "reward",
            "snapshot": "data",
            "model": "base",
            "options": {"heads": 4, "optim": {"learning_rate": 1e-3, "batch_size": 2, "max_steps": 72}},
            "settings": {**_READING, "lora": _LORA},
        },
        {
            # As the usual demo: two passes over the demonstrations, then DPO. From the base model each time, because
            # what a policy learned from the answers of others stands in the rankings anyway.
            "name": "start",
            "kind": "sft",
            "snapshot": "data",
            "model": "base",
            "options": {"optim": {"learning_rate": 1e-3, "batch_size": 8, "epochs": 2.0}},
            "settings": {**_READING, "lora": _LORA},
        },
        {
            "name": "policy",
            "kind": "dpo",
            "snapshot": "data",
            "model": "stage:start",
            "options": {
                "beta": 0.1,
                "nll_weight": 0.3,
                "optim": {"learning_rate": 3e-4, "batch_size": 2, "max_steps": 48},
            },
            "settings": {**_READING, "lora": _LORA},
        },
        {
            "name": "exam",
            "kind": "evaluate",
            "snapshot": "data",
            "policies": ["stage:policy"],
            "reward_model": "stage:judge",
            "options": {"samples_per_prompt": 1, "sampling": ANSWERS},
            "settings": _READING,
        },
        {"name": "people", "kind": "blind", "evaluation": "exam", "candidate": "stage:policy", "overlap": 1},
        {
            "name": "gate",
            "kind": "gate",
            "evaluation": "exam",
            "blind": "people",
            "candidates": ["stage:policy"],
            "min_blind_win_rate": 0.5,
            "min_reward_accuracy": 0.6,
            "max_kl": 20,
            "promote": "automatically",
        },
        {
            "name": "answers",
            "kind": "sample",
            # As Bai et al. 2022 (4.5): mostly the best policy there is, and some answers of others, so that the reward
            # model also sees what the policy has left behind. Where the gate kept the one in use, so do the first two.
            "policies": [
                {"model": "stage:gate", "share": 2},
                {"model": "stage:gate", "share": 1, "temperature": HOT},
                {"model": "stage:policy", "share": 0.5},
                {"model": "earlier", "share": 0.5},
            ],
            "prompts": "train",
            "options": {"samples_per_prompt": K, "sampling": FRESH},
            "settings": _READING,
        },
        {"name": "queue", "kind": "order", "reward_model": "stage:judge"},
        {"name": "tasks", "kind": "tasks", "sample": "answers"},
    ]
}

# Seconds on two idle cores: they only weigh the bars.
STAGE_SECONDS = {
    "snapshot": 1.0,
    "reward": 55.0,
    "sft": 35.0,
    "dpo": 65.0,
    "evaluate": 70.0,
    "blind": 15.0,
    "gate": 1.0,
    "sample": 25.0,
    "order": 20.0,
    "tasks": 1.0,
}
ROUND_SECONDS = sum(STAGE_SECONDS.values())


def seconds(rounds: int) -> dict[str, float]:
    """Return how long each step about takes."""
    first = {"demonstrate": 5.0, "sample": 60.0, "label": 25.0}
    return first | {f"round {number}": ROUND_SECONDS for number in range(1, rounds + 1)}
