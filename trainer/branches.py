"""Attention over trees in one line: every completion with its prompt, and no pair computed that no token sees.

A mask over a line of T tokens costs T * T pairs in every layer, however few of them are seen, and rows that keep masks
small hold padding. Here trees lie end to end in one row without padding, and each completion is a call of its own: the
first one together with its prompt, causally, the others against the prompt's keys and values and their own. It is for
devices without a kernel that skips blocks of a mask (flex_attention has no backward pass on the CPU).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "plackett_branches"


def register(*, compiled: bool = False) -> None:
    """Make the attention known to transformers as `NAME`.

    Where layers are `compiled` it stays outside: its calls are other ones in every batch.
    """
    AttentionInterface.register(NAME, _uncompiled(attend) if compiled else attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _uncompiled(function: Any) -> Any:
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call]


def spans(tree: torch.Tensor, branch: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return what stands for the mask of a line of trees (1, T): int64 (1, 1, S, 3), its unbroken pieces in order.

    Of each the branch (0 for a prompt, completions from 1), its tokens, and how far back is seen (0: all the way). The
    four dimensions are those of a mask, which transformers hands on to its layers as it is.
    """
    owners = torch.stack([tree[0], branch[0]], dim=1)
    pieces, tokens = torch.unique_consecutive(owners, dim=0, return_counts=True)
    return torch.stack([pieces[:, 1], tokens, torch.full_like(tokens, window or 0)], dim=1)[None, None]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Return (1, T, H, D) of a query (1, H, T, D), keys and values (1, H or fewer, T, D), as transformers asks for it.

    What has another mask than `spans`, or none, goes to SDPA. Raises `NotImplementedError` for scores that are capped,
    which no kernel of torch does.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return found
    if more.get("softcap") is not None:
        raise NotImplementedError("scores that are capped")
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    pieces: list[list[int]] = attention_mask[0, 0].tolist()
    window = pieces[0][2]
    calls: list[tuple[int, int]] = []  # tokens, and how many of them are a prompt's
    for branch, tokens, _ in pieces:
        if branch == 1:  # behind its prompt
            calls[-1] = (calls[-1][0] + tokens, calls[-1][1])
        else:
            calls.append((tokens, 0 if branch else tokens))
    sizes = [tokens for tokens, _ in calls]
    outputs = []
    prompt_keys = prompt_values = key[:, :, :0]
    for (tokens, prompt), queries, keys, values in zip(
        calls, *(torch.split(states, sizes, dim=2) for states in (query, key, value)), strict=True
    ):
        if prompt:
            prompt_keys, prompt_values = keys[:, :, :prompt], values[:, :, :prompt]
            seen_keys, seen_values = keys, values
        else:
            seen_keys = torch.cat([prompt_keys, keys], dim=2)
            seen_values = torch.cat([prompt_values, values], dim=2)
        causal = prompt > 0 and (window == 0 or tokens <= window)
        mask = None if causal else _seen(tokens, seen_keys.shape[2], window, query.device)
        output = scaled_dot_product_attention(
            queries, seen_keys, seen_values, mask, dropout_p=dropout, is_causal=causal, scale=scaling
        )
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def _seen(queries: int, keys: int, window: int, device: torch.device) -> torch.Tensor:
    """Return (queries, keys), True where the queries, which are the last of the keys, see: not what is after them."""
    before = keys - queries
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(before)
    return seen.triu(before - window + 1) if window else seen
