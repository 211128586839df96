"""What the chaos test trains, by schedule and by hand: a few seconds long, with a checkpoint every tenth of it."""

from __future__ import annotations

from typing import Any

STEPS, CHECKPOINT_STEPS = 150, 15
SETTINGS: dict[str, Any] = {
    "seed": 3,
    "checkpoint_steps": CHECKPOINT_STEPS,
    "max_length": 128,
    "precision": "float32",
}
OPTIONS: dict[str, Any] = {"optim": {"batch_size": 2, "max_steps": STEPS, "epochs": 1000.0, "learning_rate": 1e-3}}
RECIPE: dict[str, Any] = {
    "stages": [
        {"name": "data", "kind": "snapshot"},
        {
            "name": "tune",
            "kind": "sft",
            "snapshot": "data",
            "model": "base",
            "options": OPTIONS,
            "settings": SETTINGS,
        },
    ]
}
EVERY_MINUTE = "* * * * *"
