"""Several processes that train one model: each takes its share of every step, and the gradients are summed.

A step's loss is a weighted sum whose weights are of the whole step (`layout.repeat`), so the sum over the processes is
the gradient that one process would have, up to rounding. All processes hold the same weights, and only the first one
writes. They find one another as torchrun would tell them: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")

BUCKET_ELEMENTS = 1 << 24
"""Gradients are summed together in buffers of at most so many numbers."""


class Team:
    """The processes of this training; a team of one by default. Made by `team`."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self._device = device

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this process's part of a step; it may be empty."""
        return list(items[self.rank :: self.size])

    def in_turn(self, act: Callable[[], T]) -> T:
        """Return `act()`, done by one process after the other: what they read and write is the same files."""
        found: list[T] = []
        for rank in range(self.size):
            if rank == self.rank:
                found.append(act())
            if self.size > 1:
                distributed.barrier()
        return found[0]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes."""
        if self.size == 1:
            return
        for bucket in _buckets([parameter for parameter in parameters if parameter.requires_grad]):
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

    def total(self, *values: float) -> list[float]:
        """Return the sums of these numbers over the processes."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64, device=self._device)
        distributed.all_reduce(numbers)
        return [float(number) for number in numbers]

    def any(self, flag: bool) -> bool:
        """Return whether any process says so; all of them get the same answer."""
        return self.total(float(flag))[0] > 0


class NoMetrics:
    """The metrics of every process but the first: nothing is written."""

    def write(self, step: int, **values: float | int | str | None) -> None:
        """Take what `MetricsFile` would, and leave it."""

    def __enter__(self) -> NoMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """Join the processes of this training, and leave them at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), size, device)
    finally:
        distributed.destroy_process_group()


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
