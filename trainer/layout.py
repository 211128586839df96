"""How a run lays its trees into forwards: in which form, at most so many tokens, less when memory runs out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from trainer import branches, parallel, shards, tree
from trainer.config import ConfigError
from trainer.device import Device, is_out_of_memory
from trainer.flops import NO_LOAD, Load, load_of
from trainer.tree import Batch, Form, Tree

T = TypeVar("T")

LEAST_TOKENS = 64
LEFT = "tokens_per_forward.json"
# Two forwards of one model may differ by so much of the size of a hidden state, by rounding alone.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
# What models raise at a mask or positions that they cannot take.
UNABLE = (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError)


@dataclass
class Layout:
    """The form and the budget of a run's forwards. `tokens` halves for good when a step runs out of memory."""

    form: Form
    tokens: int
    device: Device
    load: Load = NO_LOAD
    """What the steps since the last `take_load` gave to the model, in all processes."""
    _attempt: Load = NO_LOAD
    spread: nn.Module | None = None
    """The model of which each process holds a part (`shards`), so that all make as many forwards as any."""
    _left: Path | None = None

    @property
    def shared(self) -> bool:
        """Whether each prompt is encoded once for all its completions."""
        return self.form != "rows"

    def batches(self, trees: Sequence[Tree]) -> Iterator[tuple[list[int], Batch]]:
        """Yield each forward: which of `trees` it holds, and its batch. Each of several processes gets its share.

        Of a model that is spread over the processes those with less to do are given forwards of nothing in the end.
        """
        ours = self.device.team.deal([one.length for one in trees])
        parts = tree.split([trees[i] for i in ours], self.tokens, self.form)
        idle = 0 if self.spread is None else max(self.device.team.gather(len(parts))) - len(parts)
        for numbers in parts:
            part = [ours[n] for n in numbers]
            self._attempt = self._attempt.plus(load_of([trees[i] for i in part], shared=self.shared))
            yield part, tree.collate([trees[i] for i in part], self.device.device, self.form)
        for _ in range(idle):
            yield [], tree.nothing(self.device.device)
        if self.spread is not None and not torch.is_grad_enabled():  # after a backward it is closed
            shards.close(self.spread)

    def counters(self) -> dict[str, int]:
        """Return what a checkpoint must keep, so that a resumed run splits its steps as the run before did."""
        return {"tokens_per_forward": self.tokens}

    def resume(self, counters: dict[str, Any], run_dir: Path) -> None:
        """Take the budget that a checkpoint kept, or the smaller one that an attempt left which memory ended."""
        self.tokens = int(counters.get("tokens_per_forward", self.tokens))
        self._left = run_dir / LEFT
        if self._left.exists():
            self.tokens = min(
                self.tokens, int(json.loads(self._left.read_text(encoding="utf-8"))["tokens_per_forward"])
            )

    def repeat(self, attempt: Callable[[], T], *optimizers: torch.optim.Optimizer) -> T:
        """Return `attempt()`; when memory runs out, halve the budget and do it all again with no gradient left over.

        The losses are weighted sums whose weights are of the whole step, so it is the same step in smaller parts. Of
        several processes each repeats its own share alone, and from then on all have the smallest budget of them.
        """
        found = self._repeat(attempt, optimizers)
        self.tokens = min(self.device.team.gather(self.tokens))
        return found

    def step(
        self,
        attempt: Callable[[], T],
        *optimizers: torch.optim.Optimizer,
        add: Callable[[list[T]], T] = parallel.add_up,
    ) -> T:
        """Return the figures of a whole step: `repeat`, and the gradients and figures of all processes added up."""
        found = self._repeat(attempt, optimizers)
        team = self.device.team
        team.sum_gradients(optimizers)
        parts, loads, budgets = zip(*team.gather((found, self._attempt, self.tokens)), strict=True)
        self.tokens = min(budgets)
        for load in loads:
            self.load = self.load.plus(load)
        return found if team.size == 1 else add(list(parts))

    def take_load(self) -> Load:
        """Return what the model was given since the last call, and begin to count anew."""
        load, self.load = self.load, NO_LOAD
        return load

    def _repeat(self, attempt: Callable[[], T], optimizers: Sequence[torch.optim.Optimizer]) -> T:
        while True:
            self._attempt = NO_LOAD
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.tokens <= LEAST_TOKENS:
                    raise ConfigError(
                        "Memory runs out even with a single prompt and its answers in a forward; lower max_length, or "
                        "use LoRA, precision bfloat16 or a smaller model."
                    ) from error
                self.tokens = max(LEAST_TOKENS, self.tokens // 2)
                if self.spread is not None:  # the others are in the middle of this forward and wait
                    self._leave()
                    raise torch.OutOfMemoryError(
                        "Memory ran out, and where processes share one model none of them can repeat its part alone; "
                        f"the next attempt goes on from the last checkpoint with {self.tokens} tokens a forward."
                    ) from error
                print(
                    f"Out of memory: the step is repeated with {self.tokens} tokens a forward.",
                    file=sys.stderr,
                    flush=True,
                )
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            if self.device.device.type == "cuda":
                torch.cuda.empty_cache()

    def _leave(self) -> None:
        """Write the budget down for the next attempt."""
        if self._left is not None:
            aside = self._left.with_suffix(f".{os.getpid()}.partial")
            aside.write_text(json.dumps(self.counters()), encoding="utf-8")
            aside.replace(self._left)


def choose(trunk: Any, model: Any, tokens: int, device: Device, others: Sequence[Any] = ()) -> Layout:
    """Return the layout that a model can take, after seeing it compute a small probe both ways.

    `trunk` is the model without its head, `model` the transformers model it belongs to; `others`, which are like it,
    are given its attention. On CUDA flex_attention is tried first, on the CPU our own for trees in a line. A model that
    says something else of shared prompts than of rows gets rows, with a note on stderr; one that says something else
    of padded rows than of each row alone is refused.
    """
    spread = model if shards.is_spread(model) else None
    asked = model.config._attn_implementation  # no public name
    branches.register()
    first: dict[str, tuple[str, Form]] = {"cuda": ("flex_attention", "packed"), "cpu": (branches.NAME, "line")}
    plain: tuple[str, Form] = (asked, "packed")
    for way, form in [first.get(device.device.type, plain), plain]:
        try:
            if way != model.config._attn_implementation:
                model.set_attn_implementation(way)
            found = _probe(trunk, model, device, form, together=True)
            wanted = _probe(trunk, model, device, "rows", together=False)
        except UNABLE as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            if spread is not None:
                model.reset_iter_state()  # it was left in the middle of a forward
        else:
            if _same(found, wanted, device):
                for other in others:
                    other.set_attn_implementation(way)
                return Layout(form, tokens, device, spread=spread)
            reason = "their hidden states are not those of each answer alone"
    print(
        f"The model {model.config.model_type} cannot take several answers behind one prompt ({reason}); "
        "every answer is encoded with a prompt of its own.",
        file=sys.stderr,
        flush=True,
    )
    found, wanted = (_probe(trunk, model, device, "rows", together=both) for both in (True, False))
    if not _same(found, wanted, device):
        raise ConfigError(
            f"The model {model.config.model_type} computes something else for an answer in a batch than for the same "
            "answer alone, so nothing learned from batches would be true of it."
        )
    return Layout("rows", tokens, device, spread=spread)


@torch.no_grad()
def _probe(trunk: Any, model: Any, device: Device, form: Form, *, together: bool) -> torch.Tensor:
    """Return the hidden states at the scored positions and ends of two small trees, in one forward or one by one."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    trees = [Tree(ids[:9], [ids[9:14], ids[14:17], ids[17:24]]), Tree(ids[24:27], [ids[27:31], ids[31:40]])]
    alone = [Tree(one.prompt, [completion]) for one in trees for completion in one.completions]
    states = []
    for part in [trees] if together else [[one] for one in alone]:
        batch = tree.collate(part, device.device, form)
        with device.autocast():
            hidden = tree.hidden_states(trunk, model.config, batch).float()
        states += [
            torch.cat([hidden[batch.sources[batch.owners == n]], hidden[end][None]]) for n, end in enumerate(batch.ends)
        ]
    shards.close(model)
    return torch.cat(states)


def _same(found: torch.Tensor, wanted: torch.Tensor, device: Device) -> bool:
    error = (found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-6)
    return bool(error.max() <= TOLERANCE[device.dtype])
