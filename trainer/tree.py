"""The one batch shape: ragged trees, a shared prompt with its completions, packed into rows for one forward.

SFT has one completion a tree, DPO two or more, reward models and group rollouts K. A prompt is encoded once for all its
completions: behind it they lie one after another, each at the positions that it would have alone, and attention lets a
completion see its own prompt and itself but no sibling.

    row      p p p p a a a b b b b | q q c c c        p's completions a and b, and another tree
    position 0 1 2 3 4 5 6 4 5 6 7 | 0 1 2 3 4

A batch has one of three forms. In a `line` all trees lie in one row without padding, for an attention that computes
what is seen and nothing else (`branches`). `packed`, trees share rows that are kept short, under a mask over each row.
Where a model can take neither (`layout` finds out), completions lie in `rows` of their own, the prompt before each.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from trainer import branches

Form = Literal["line", "packed", "rows"]

# At rows of so many tokens attention costs about as much as everything else in a small model (six times its width, for
# the usual proportions); in larger models and with blocks of a mask left out it costs less.
EVEN_WIDTH = 3000
FLEX_BLOCK = 128  # flex_attention's masks are made of blocks of so many tokens


class Tree(NamedTuple):
    """The token ids of one prompt and of its K completions.

    `scored` says which tokens of each completion are asked for; None asks for all. It is for conversations, in which
    the answers are to be learned and the questions between them are not.
    """

    prompt: list[int]
    completions: list[list[int]]
    scored: list[list[bool]] | None = None

    @property
    def asked(self) -> int:
        """How many tokens of its completions are scored."""
        return sum(map(len, self.completions)) if self.scored is None else sum(map(sum, self.scored))

    @property
    def length(self) -> int:
        """Tokens with the prompt counted once."""
        return len(self.prompt) + sum(map(len, self.completions))

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest completion."""
        return len(self.prompt) + max(map(len, self.completions))


class Batch(NamedTuple):
    """Some trees in R rows of T tokens. N completions with M scored tokens in all, in the order of the trees given.

    `sources` and `ends` index the R * T positions of the rows laid end to end.
    """

    input_ids: torch.Tensor  # (R, T) int64
    position_ids: torch.Tensor  # (R, T) int64
    tree: torch.Tensor  # (R, T) int64: the number of the token's tree, -1 for padding
    branch: torch.Tensor  # (R, T) int64: 0 in prompts and padding, the completion from 1 elsewhere
    sources: torch.Tensor  # (M,) int64: the position that predicts each scored token, the one before it
    targets: torch.Tensor  # (M,) int64: the id of each scored token
    owners: torch.Tensor  # (M,) int64: which completion, 0 to N - 1, each token belongs to
    ends: torch.Tensor  # (N,) int64: the position of each completion's last token
    masked: bool  # whether rows hold more than one sequence, so that causal attention alone would be wrong

    @property
    def tokens(self) -> int:
        """Real tokens, padding left out."""
        return int((self.tree >= 0).sum())

    def sum_by_completion(self, values: torch.Tensor) -> torch.Tensor:
        """Return (N,) sums of values (M,) of scored tokens."""
        return torch.zeros(len(self.ends), dtype=values.dtype, device=values.device).index_add(0, self.owners, values)

    def join(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return (N,) values that each tree has of its completions (K,), on the batch's device."""
        return torch.cat([torch.zeros(0), *values]).to(self.ends.device)


# Packing


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Lay items into rows and return the indexes in each row, so that little is padding and no row needlessly long.

    Rows as long as the longest item, each item into the first row with room, are where it starts. Fewer, longer rows
    are taken where they hold less padding than their longer attention costs.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    width = max(lengths, default=0)
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        place = next((row for row, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(width)
        rows[place].append(index)
        room[place] -= lengths[index]
    best, least = rows, _cost(len(rows), width)
    for count in range(len(rows) - 1, max(0, len(rows) // 2 - 1), -1):
        levelled: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for index in order:
            place = filled.index(min(filled))
            levelled[place].append(index)
            filled[place] += lengths[index]
        # No more positions than at first: `split` has counted those.
        if count * max(filled) <= len(rows) * width and _cost(count, max(filled)) < least:
            best, least = levelled, _cost(count, max(filled))
    return best


def _cost(rows: int, width: int) -> float:
    return rows * width * (1 + width / EVEN_WIDTH)


def split(trees: Sequence[Tree], tokens: int, form: Form) -> list[list[int]]:
    """Split trees into forwards of at most `tokens` tokens with padding; return their indexes.

    A tree that is too large alone has a forward of its own. The budget counts tokens and not rows, so that what a
    forward costs does not depend on how long its texts happen to be.
    """
    order = sorted(range(len(trees)), key=lambda i: (-_width(trees[i], form), i))
    return _split_line(trees, order, tokens) if form == "line" else _split_rows(trees, order, tokens, form)


def _split_line(trees: Sequence[Tree], order: list[int], tokens: int) -> list[list[int]]:
    """Return as few forwards as hold the trees, of even size: each tree, the longest first, goes to the least full."""
    least = -(-sum(one.length for one in trees) // tokens)
    for count in range(min(least, len(trees)), len(trees) + 1):
        parts: list[list[int]] = [[] for _ in range(count)]
        filled = [(0, number) for number in range(count)]
        for index in order:
            size, number = filled[0]
            heapq.heapreplace(filled, (size + trees[index].length, number))
            parts[number].append(index)
        if all(size <= tokens or len(parts[number]) == 1 for size, number in filled):
            return [part for part in parts if part]
    return []


def _split_rows(trees: Sequence[Tree], order: list[int], tokens: int, form: Form) -> list[list[int]]:
    """Return forwards of trees of like length, the longest first: little is padding, and memory runs out early."""
    shared = form == "packed"
    parts: list[list[int]] = []
    room: list[int] = []  # free tokens of each row of the last part, if trees share rows
    rows = width = 0
    for index in order:
        size = _width(trees[index], form)
        place = next((row for row, free in enumerate(room) if free >= size), None) if shared else None
        more = 0 if place is not None else 1 if shared else len(trees[index].completions)
        if not parts or (rows + more) * width > tokens:
            parts.append([])
            room, rows, width, place = [], 0, size, None
            more = 1 if shared else len(trees[index].completions)
        if place is None:
            place = len(room)
            room.append(width)
        room[place] -= size
        rows += more
        parts[-1].append(index)
    return parts


def _width(tree: Tree, form: Form) -> int:
    return tree.longest if form == "rows" else tree.length


def collate(trees: Sequence[Tree], device: torch.device, form: Form, *, pad_id: int = 0) -> Batch:
    """Lay trees into the rows of a form. What `pad_id` is does not matter: nothing that counts can see padding."""
    shared = form != "rows"
    # One unit is what lies unbroken in a row: a prompt and the completions behind it.
    units = [
        (n, kept)
        for n, tree in enumerate(trees)
        for kept in ([range(len(tree.completions))] if shared else [[k] for k in range(len(tree.completions))])
    ]
    lengths = [len(trees[n].prompt) + sum(len(trees[n].completions[k]) for k in kept) for n, kept in units]
    alone = [[unit] for unit in range(len(units))]
    rows = pack(lengths) if form == "packed" else [list(range(len(units)))] if form == "line" else alone
    width = max(sum(lengths[unit] for unit in row) for row in rows)
    ids, positions, owner_tree, branch = (
        torch.full((len(rows), width), fill, dtype=torch.long) for fill in (pad_id, 0, -1, 0)
    )
    first = [0]  # the number of each tree's first completion
    for tree in trees:
        first.append(first[-1] + len(tree.completions))
    sources: list[torch.Tensor] = [torch.empty(0)] * first[-1]
    ends = torch.empty(first[-1], dtype=torch.long)
    for row, unit_indexes in enumerate(rows):
        at = 0
        for n, kept in (units[unit] for unit in unit_indexes):
            prompt, start = trees[n].prompt, at
            at += len(prompt)
            ids[row, start:at] = torch.tensor(prompt)
            positions[row, start:at] = torch.arange(len(prompt))
            for k in kept:
                completion, begin = trees[n].completions[k], at
                at += len(completion)
                ids[row, begin:at] = torch.tensor(completion)
                positions[row, begin:at] = torch.arange(len(prompt), len(prompt) + len(completion))
                branch[row, begin:at] = k + 1
                before = torch.arange(begin - 1, at - 1)
                before[0] = start + len(prompt) - 1  # the first token is predicted by the end of the prompt
                sources[first[n] + k] = row * width + before
                ends[first[n] + k] = row * width + at - 1
            owner_tree[row, start:at] = n
    targets = [torch.tensor(completion) for tree in trees for completion in tree.completions]
    asked = [
        torch.ones(len(completion), dtype=torch.bool) if tree.scored is None else torch.tensor(tree.scored[k])
        for tree in trees
        for k, completion in enumerate(tree.completions)
    ]
    owners = torch.repeat_interleave(torch.arange(len(targets)), torch.stack([mask.sum() for mask in asked]))
    scored = torch.cat(asked)
    masked = shared and any(len(row) > 1 or len(units[row[0]][1]) > 1 for row in rows)
    return Batch(
        ids.to(device),
        positions.to(device),
        owner_tree.to(device),
        branch.to(device),
        torch.cat(sources)[scored].to(device),
        torch.cat(targets)[scored].to(device),
        owners.to(device),
        ends.to(device),
        masked,
    )


def nothing(device: torch.device) -> Batch:
    """Return a batch of one token of padding and no completion, for a process that only keeps up with the others."""
    token, none = torch.zeros(1, 1, dtype=torch.long, device=device), torch.zeros(0, dtype=torch.long, device=device)
    return Batch(token, token, token - 1, token, none, none, none, none, masked=False)


# Attention


def hidden_states(trunk: Any, config: Any, batch: Batch) -> torch.Tensor:
    """Return the last hidden states (R * T, D) of a model without its head, rows laid end to end.

    Where no row holds two sequences no mask is passed: attention is causal and padding lies on the right, so no real
    token can see it, and the faster causal kernel runs.
    """
    if batch.masked:
        output = trunk(
            input_ids=batch.input_ids,
            attention_mask=attention_mask(config, batch),
            position_ids=batch.position_ids,
            use_cache=False,
        )
    else:
        output = trunk(input_ids=batch.input_ids, use_cache=False)
    hidden: torch.Tensor = output.last_hidden_state.flatten(0, 1)
    return hidden


def attention_mask(config: Any, batch: Batch) -> Any:
    """Return the mask of a batch in the form that transformers hands on to its layers as it is.

    One mask if all layers see equally far, else one for each kind of layer. Raises `NotImplementedError` for a kind of
    layer that no mask can express.
    """
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise NotImplementedError(f"layers of the kinds {', '.join(sorted(kinds))}")
    if "sliding_attention" in kinds:
        return {kind: _mask(config, batch, window if kind == "sliding_attention" else None) for kind in sorted(kinds)}
    return _mask(config, batch, None if kinds else window)


def _mask(config: Any, batch: Batch, window: int | None) -> Any:
    """Return a mask (R, 1, T, T): boolean for SDPA, added to the scores for the eager way, in blocks for flex.

    For a line of trees it is the list of what lies in it.
    """
    way = config._attn_implementation  # no public name
    if way == branches.NAME and len(batch.tree) == 1:
        return branches.spans(batch.tree, batch.branch, window)
    if way == "flex_attention":
        return _block_mask(batch, window)
    seen = sees(batch, window)
    if way in ("sdpa", branches.NAME):
        return seen
    if way == "eager":
        lowest = torch.finfo(torch.float32 if config.dtype is None else config.dtype).min
        return torch.zeros(seen.shape, device=seen.device, dtype=config.dtype).masked_fill(~seen, lowest)
    raise NotImplementedError(f"the attention {way}")


def sees(batch: Batch, window: int | None = None) -> torch.Tensor:
    """Return (R, 1, T, T), True where token q (third) sees token k (fourth).

    That is where k is not after q, of the same tree, in the prompt or in q's own completion, and less than `window`
    positions back. Padding sees padding, so that no row of the softmax is empty.
    """
    branch, position = batch.branch, batch.position_ids
    own = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    seen = own & (batch.tree[:, None, :] == batch.tree[:, :, None])
    if window is not None:
        seen = seen & (position[:, :, None] - position[:, None, :] < window)
    return seen.tril()[:, None]


def _block_mask(batch: Batch, window: int | None) -> Any:
    """Return the same as `sees` for flex_attention, which skips blocks where nothing is seen."""
    from torch.nn.attention.flex_attention import create_block_mask  # it loads the compiler, which few runs need

    rows, width = batch.input_ids.shape
    mask = partial(sees_at, batch.tree, batch.branch, batch.position_ids, window)
    return create_block_mask(mask, rows, None, width, width, device=batch.tree.device, BLOCK_SIZE=FLEX_BLOCK)


def sees_at(
    tree: torch.Tensor,
    branch: torch.Tensor,
    position: torch.Tensor,
    window: int | None,
    row: torch.Tensor,
    _head: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
) -> torch.Tensor:
    """Return `sees` at one place, or at many: `row`, `q` and `k` are broadcast."""
    own = (branch[row, k] == 0) | (branch[row, k] == branch[row, q])
    seen = (k <= q) & own & (tree[row, k] == tree[row, q])
    return seen if window is None else seen & (position[row, q] - position[row, k] < window)
