"""Several processes that train one model: each takes its share of every step, and the gradients are summed.

A step's loss is a weighted sum whose weights are of the whole step (`layout.repeat`), so the sum over the processes is
the gradient that one process would have, up to rounding. All processes hold the same weights, or each its part of them
(`shards`), and only the first one writes. They find one another as torchrun would tell them: RANK, LOCAL_RANK,
WORLD_SIZE, MASTER_ADDR, MASTER_PORT.

What they tell one another goes as JSON or as plain tensors: nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from trainer.metrics import MetricsFile

T = TypeVar("T")

BUCKET_ELEMENTS = 1 << 24
"""Gradients are summed together in buffers of at most so many numbers."""

SIZE_BYTES, SHORT = 8, 2040
"""What processes tell one another goes in one piece of so many bytes with its size before it, and the rest in a second.

Most of it is short, and an exchange costs the time until the last process comes to it.
"""

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others. One that dies is noticed by who started it; long answers are no fault."""


class Team:
    """The processes of this training; a team of one by default. Made by `join`.

    Every method that speaks with the others has to be called by all of them, in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self._device = device

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def deal(self, sizes: Sequence[int]) -> list[int]:
        """Return which of the things of these sizes are this process's; there may be none.

        They are dealt to and fro, the largest first, so that all have about as much to do.
        """
        if self.size == 1:
            return list(range(len(sizes)))
        order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
        turns = [*range(self.size), *reversed(range(self.size))]
        return sorted(i for place, i in enumerate(order) if turns[place % len(turns)] == self.rank)

    def in_turn(self, act: Callable[[], T]) -> T:
        """Return `act()`, done by one process after the other: what they read and write is the same files."""
        found: list[T] = []
        for rank in range(self.size):
            if rank == self.rank:
                found.append(act())
            if self.size > 1:
                distributed.barrier()
        return found[0]

    def sum_gradients(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Replace every gradient by its sum over the processes; of a weight that is spread over them it is one."""
        if self.size == 1:
            return
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        parameters = [one for group in groups for one in group["params"] if not isinstance(one, DTensor)]
        for bucket in _buckets(parameters):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(flat)
            start = 0
            for gradient in gradients:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()

    def sum_grids(self, *grids: torch.Tensor) -> None:
        """Replace each tensor by its sum: one that each process filled in its own places becomes whole."""
        if self.size > 1:
            for grid in grids:
                distributed.all_reduce(grid)

    @torch.no_grad()
    def follow(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace these tensors by the first process's; of those that are spread each has its part already."""
        if self.size > 1:
            for tensor in tensors:
                if isinstance(tensor, DTensor):
                    continue
                whole = tensor.detach().contiguous()
                distributed.broadcast(whole, 0)
                tensor.copy_(whole)

    def total(self, *values: float) -> list[float]:
        """Return the sums of these numbers over the processes."""
        return list(values) if self.size == 1 else [sum(column) for column in zip(*self.gather(values), strict=True)]

    def any(self, flag: bool) -> bool:
        """Return whether any process says so; all of them get the same answer."""
        return any(self.gather(flag))

    def agree(self, value: T) -> T:
        """Return what the first process gives; a figure that decides must not differ by a GPU's rounding."""
        found: T = self.gather(value)[0]
        return found

    def gather(self, value: Any) -> list[Any]:
        """Return what each process gives, in their order: anything that JSON can hold, and it keeps floats exactly."""
        if self.size == 1:
            return [value]
        said = json.dumps(value).encode()
        heard = self._exchange(len(said).to_bytes(SIZE_BYTES, "big") + said[:SHORT])
        longest = max(int.from_bytes(one[:SIZE_BYTES], "big") for one in heard)
        whole = [one[SIZE_BYTES:] for one in heard]
        if longest > SHORT:
            rest = self._exchange(said[SHORT:], longest - SHORT)
            whole = [first + more for first, more in zip(whole, rest, strict=True)]
        sizes = [int.from_bytes(one[:SIZE_BYTES], "big") for one in heard]
        return [json.loads(text[:size]) for text, size in zip(whole, sizes, strict=True)]

    def _exchange(self, said: bytes, room: int = SIZE_BYTES + SHORT) -> list[bytes]:
        """Return what each process says, at most `room` bytes, filled up with zeros."""
        ours = torch.frombuffer(bytearray(said.ljust(room, b"\0")), dtype=torch.uint8).to(self._device)
        heard = [torch.empty_like(ours) for _ in range(self.size)]
        distributed.all_gather(heard, ours)
        return [one.cpu().numpy().tobytes() for one in heard]

    def merge(self, found: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return all of some float32 tensors on the CPU: each process has found its own, and left the others empty."""
        if self.size == 1:
            return list(found)
        parts = self.gather({number: values.tolist() for number, values in enumerate(found) if values.numel()})
        whole = {int(number): values for part in parts for number, values in part.items()}
        return [torch.tensor(whole[number], dtype=torch.float32) for number in range(len(found))]

    def metrics(self, run_dir: Path) -> MetricsFile | NoMetrics:
        """Return the run's metrics file, which only the first process writes."""
        return MetricsFile(run_dir) if self.leads else NoMetrics()


class NoMetrics:
    """The metrics of every process but the first: nothing is written."""

    def write(self, step: int, **values: float | int | str | None) -> None:
        """Take what `MetricsFile` would, and leave it."""

    def __enter__(self) -> NoMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        return None


ALONE = Team()


def join(device: torch.device) -> Team:
    """Join the processes of this training, where there are several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
            distributed.init_process_group("nccl", timeout=PATIENCE, device_id=device)
        else:
            distributed.init_process_group("gloo", timeout=PATIENCE)
    return Team(distributed.get_rank(), distributed.get_world_size(), device)


def leave() -> None:
    """Leave the processes of this training, if it has joined them."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def add_up(parts: Sequence[Any]) -> Any:
    """Return the sum of what several processes found: numbers, or lists and objects of them, entry by entry.

    One with nothing to do may lack entries of an object.
    """
    first = parts[0]
    if isinstance(first, Mapping):
        keys = dict.fromkeys(key for part in parts for key in part)
        return {key: add_up([part[key] for part in parts if key in part]) for key in keys}
    if isinstance(first, (list, tuple)):
        return [add_up(column) for column in zip(*parts, strict=True)]
    return sum(parts)


def local_device(name: str) -> str:
    """Return this process's own device for `auto` or `cuda`: each of several takes the GPU of its number."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several or not torch.cuda.is_available() or name not in ("auto", "cuda"):
        return name
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _buckets(parameters: list[Any]) -> Iterator[list[Any]]:
    bucket: list[Any] = []
    for parameter in parameters:
        if bucket and (
            sum(one.numel() for one in bucket) + parameter.numel() > BUCKET_ELEMENTS
            or parameter.dtype != bucket[0].dtype
        ):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
