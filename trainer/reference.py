"""What the untrained model says of answers: log-probabilities computed once and kept in the run's directory.

reference.safetensors    logps (N,), and in its metadata the key: model, precision, and the ids of all answers
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from trainer import modeling
from trainer.config import RunConfig
from trainer.layout import Layout
from trainer.records import canonical
from trainer.tree import Tree


def tree_logps(model: PreTrainedModel, trees: Sequence[Tree], layout: Layout) -> list[torch.Tensor]:
    """Return log pi(y | x) (K,) of each tree's completions, on the CPU."""
    return layout.repeat(partial(_tree_logps, model, trees, layout))


@torch.no_grad()
def _tree_logps(model: PreTrainedModel, trees: Sequence[Tree], layout: Layout) -> list[torch.Tensor]:
    logps: list[torch.Tensor] = [torch.empty(0)] * len(trees)
    for part, batch in layout.batches(trees):
        with layout.device.autocast():
            values = batch.sum_by_completion(modeling.completion_logps(model, batch)).cpu()
        sizes = [len(trees[i].completions) for i in part]
        for index, chunk in zip(part, torch.split(values, sizes), strict=True):
            logps[index] = chunk
    return layout.device.team.merge(logps)


def reference_logps(
    run_dir: Path, model: PreTrainedModel, trees: Sequence[Tree], config: RunConfig, layout: Layout
) -> list[torch.Tensor]:
    """Return `tree_logps` of the untrained model, from the run's cache where that holds them for these very inputs.

    The tokenizer is in the key by what it does: the ids that it made.
    """
    ids = [[tree.prompt, tree.completions] for tree in trees]
    facts = [modeling.fingerprint(config.model), str(layout.device.dtype), hashlib.sha256(canonical(ids)).hexdigest()]
    key = hashlib.sha256(canonical(facts)).hexdigest()
    path = run_dir / "reference.safetensors"
    sizes = [len(tree.completions) for tree in trees]
    kept, team = _kept(path, key), layout.device.team
    if not team.any(kept is None) and kept is not None:  # the measuring is shared, so all have it or none
        return list(torch.split(kept, sizes))
    logps = tree_logps(model, trees, layout)
    if team.leads:
        aside = path.with_suffix(".partial")
        save_file({"logps": torch.cat(logps)}, aside, metadata={"key": key})
        aside.replace(path)
    return logps


def _kept(path: Path, key: str) -> torch.Tensor | None:
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("logps") if file.metadata() == {"key": key} else None
