"""What the untrained model says of answers: log-probabilities computed once and kept in the run's directory.

reference.safetensors    logps (N,), and in its metadata the key: model, precision, and the ids of all answers
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, overload

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from trainer import modeling
from trainer.config import RunConfig
from trainer.jsonl import canonical
from trainer.layout import Layout
from trainer.rankings import Group
from trainer.tree import Tree

T = TypeVar("T")
CHUNK = 1024


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


def mean_figures(
    model: PreTrainedModel,
    groups: Sequence[Group],
    reference: Sequence[torch.Tensor],
    layout: Layout,
    judge: Callable[[torch.Tensor, torch.Tensor, Sequence[Group], float], dict[str, float]],
) -> dict[str, float]:
    """Return the figures of all groups, by their weights, of which `CHUNK` are held at once.

    `judge` returns those of some from what the model and the reference say of their answers (N,), the groups, and the
    sum of their weights.
    """
    totals: dict[str, float] = {}
    weight = 0.0
    for some, before in zip(chunks(groups), chunks(reference), strict=True):
        logps = torch.cat(tree_logps(model, [group.tree for group in some], layout))
        part = sum(group.weight for group in some)
        figures = judge(logps, torch.cat(list(before)), some, part)
        totals = {key: totals.get(key, 0.0) + part * value for key, value in figures.items()}
        weight += part
    return {key: value / weight for key, value in totals.items()}


class Logps(Sequence[torch.Tensor]):
    """Log pi(y | x) (K,) of each of many trees' completions, in one tensor (N,)."""

    def __init__(self, values: torch.Tensor, sizes: Sequence[int]) -> None:
        """Take the values of all trees, and how many completions each has."""
        self.values, self._ends = values, torch.tensor(sizes, dtype=torch.long).cumsum(dim=0)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, at: slice) -> list[torch.Tensor]: ...
    def __getitem__(self, at: int | slice) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self.values[self._ends[at - 1] if at else 0 : self._ends[at]]


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield `CHUNK` items at a time, which is as many as are held at once."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def reference_logps(
    run_dir: Path, model: PreTrainedModel, parts: Sequence[Sequence[Tree]], config: RunConfig, layout: Layout
) -> list[Logps]:
    """Return `tree_logps` of the untrained model for each part, from the run's cache if it holds them for these inputs.

    The tokenizer is in the key by what it does: the ids that it made.
    """
    ids, sizes = hashlib.sha256(), [array("q") for _ in parts]
    for trees, counts in zip(parts, sizes, strict=True):
        for tree in trees:
            ids.update(canonical([tree.prompt, tree.completions]))
            counts.append(len(tree.completions))
    facts = [modeling.fingerprint(config.model), str(layout.device.dtype), ids.hexdigest()]
    key = hashlib.sha256(canonical(facts)).hexdigest()
    path = run_dir / "reference.safetensors"
    logps, team = _kept(path, key), layout.device.team
    if team.any(logps is None) or logps is None:  # the measuring is shared, so all have it or none
        found = [torch.cat(tree_logps(model, some, layout)) for trees in parts for some in chunks(trees)]
        logps = torch.cat(found)
        if team.leads:
            aside = path.with_suffix(".partial")
            save_file({"logps": logps}, aside, metadata={"key": key})
            aside.replace(path)
    return [Logps(*of) for of in zip(torch.split(logps, [sum(counts) for counts in sizes]), sizes, strict=True)]


def _kept(path: Path, key: str) -> torch.Tensor | None:
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("logps") if file.metadata() == {"key": key} else None
