"""The kinds of stages a recipe may have, each a module with `Spec`, `start` and `advance`; see `base` for the rules.

A new kind is a module and its line in `KINDS`; the column `pipeline_stages.kind` takes any name.
"""

from __future__ import annotations

from types import MappingProxyType

from app.services.training.stages import (
    blind,
    dpo,
    evaluate,
    gate,
    kto,
    order,
    ppo,
    reward,
    rloo,
    sample,
    sft,
    snapshot,
    tasks,
)
from app.services.training.stages.base import Kind

KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {
        "snapshot": snapshot,
        "sft": sft,
        "reward": reward,
        "dpo": dpo,
        "kto": kto,
        "ppo": ppo,
        "rloo": rloo,
        "evaluate": evaluate,
        "blind": blind,
        "gate": gate,
        "sample": sample,
        "tasks": tasks,
        "order": order,
    }
)
