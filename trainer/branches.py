"""Attention over trees in one line: every completion with its prompt, and no pair computed that no token sees.

A mask over a line of T tokens costs T * T pairs in every layer, however few of them are seen, and rows that keep masks
small hold padding. Here trees lie end to end in one row without padding, and each completion is a call of its own: the
first one together with its prompt, causally, the others against the prompt's keys and values and their own. It is for
devices without a kernel that skips blocks of a mask (flex_attention has no backward pass on the CPU).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
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
    if more.get("softcap") is not None or dropout:
        raise NotImplementedError("scores that are capped or dropped")
    groups = getattr(module, "num_key_value_groups", 1)
    calls = _calls(attention_mask[0, 0].tolist())
    output: torch.Tensor = _Attention.apply(query, repeat_kv(key, groups), repeat_kv(value, groups), calls, scaling)  # type: ignore[no-untyped-call]
    return output, None


class _Call(NamedTuple):
    """One call of the kernel: tokens `start` to `end`, before them those of their prompt, whose first is `prompt`.

    `stem` is how many of the prompt's tokens stand before `start`; 0 where the call begins with the prompt itself.
    """

    start: int
    end: int
    prompt: int
    stem: int
    window: int

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """Return the keys or values (1, H, stem + tokens, D) that the call's tokens may see."""
        own = states[:, :, self.start : self.end]
        return torch.cat([states[:, :, self.prompt : self.prompt + self.stem], own], dim=2) if self.stem else own

    def mask(self, states: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the scores, -inf where nothing is seen; None where causal attention is right."""
        tokens = self.end - self.start
        if not self.stem and (not self.window or tokens <= self.window):
            return None
        hidden = torch.ones(tokens, self.stem + tokens, dtype=torch.bool, device=states.device).triu(self.stem + 1)
        if self.window:
            hidden |= torch.ones_like(hidden).tril(self.stem - self.window)
        return torch.zeros(hidden.shape, dtype=states.dtype, device=states.device).masked_fill_(hidden, -torch.inf)


def _calls(pieces: list[list[int]]) -> list[_Call]:
    """Return the calls for the pieces of a line; a prompt and its first completion are one."""
    calls: list[_Call] = []
    start = prompt = stem = 0
    for branch, tokens, window in pieces:
        if branch == 1:
            calls[-1] = calls[-1]._replace(end=start + tokens)
        elif branch == 0:
            prompt, stem = start, tokens
            calls.append(_Call(start, start + tokens, prompt, 0, window))
        else:
            calls.append(_Call(start, start + tokens, prompt, stem, window))
        start += tokens
    return calls


class _Attention(torch.autograd.Function):
    """The calls, forwards and backwards, on the CPU's kernel itself: as many nodes of the graph as calls cost more."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        calls: list[_Call],
        scale: float | None,
    ) -> torch.Tensor:
        """Return (1, T, H, D) of query, keys and values (1, H, T, D)."""
        # What SDPA calls, with the logarithms of the softmaxes' sums, which the backward pass needs.
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        sums = []
        for call in calls:
            found, log_sum = attention(
                query[:, :, call.start : call.end],
                call.of(key),
                call.of(value),
                is_causal=(mask := call.mask(query)) is None,
                attn_mask=mask,
                scale=scale,
            )
            output[:, call.start : call.end] = found.transpose(1, 2)
            sums.append(log_sum)
        ctx.save_for_backward(query, key, value, output, *sums)
        ctx.calls, ctx.scale = calls, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, keys and values."""
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, output, *sums = ctx.saved_tensors
        gradient, output = gradient.transpose(1, 2), output.transpose(1, 2)
        queries, keys, values = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for call, log_sum in zip(ctx.calls, sums, strict=True):
            own = slice(call.start, call.end)
            queries[:, :, own], *others = attention(
                gradient[:, :, own],
                query[:, :, own],
                call.of(key),
                call.of(value),
                output[:, :, own],
                log_sum,
                0.0,
                (mask := call.mask(query)) is None,
                attn_mask=mask,
                scale=ctx.scale,
            )
            for total, part in zip((keys, values), others, strict=True):
                total[:, :, own] += part[:, :, call.stem :]
                total[:, :, call.prompt : call.prompt + call.stem] += part[:, :, : call.stem]
        return queries, keys, values, None, None
