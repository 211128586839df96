"""A key-value cache with room in it: a step of sampling writes its token and copies nothing.

transformers' own grows by a copy of all that it holds, at every step and in every layer.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def with_room(config: Any, length: int) -> DynamicCache:
    """Return an empty cache for `length` tokens of a model. Layers with a window hold little and stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types here
    """Keys and values (N, H, T, D) of one layer, which are the filled part of tensors for `length` tokens."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self._whole: list[torch.Tensor] = []  # of keys and of values; none before the second step, which needs the room

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the states of new tokens, and return those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        filled = self.keys.shape[2]
        if not self._whole:
            self._whole = [self._with_room(states) for states in (self.keys, self.values)]
        end = filled + key_states.shape[2]
        for whole, states in zip(self._whole, (key_states, value_states), strict=True):
            whole[:, :, filled:end] = states
        self.keys, self.values = (whole[:, :, :end] for whole in self._whole)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, some of them several times or not at all."""
        super().batch_select_indices(indices)
        self._whole = []

    def _with_room(self, states: torch.Tensor) -> torch.Tensor:
        rows, heads, filled, size = states.shape
        whole = states.new_empty(rows, heads, self._length, size)
        whole[:, :, :filled] = states
        return whole
