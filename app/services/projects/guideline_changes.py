"""What is new between two versions of the guidelines: the text word by word, the questions as sentences. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from app.services.projects.questions import Criterion, Questions

Kind = Literal["same", "added", "removed", "left_out"]

CONTEXT = 2
"""Unchanged lines shown on either side of a change."""

MOST_COMPARED = 250_000
"""Words of a passage before times words after, up to which they are compared; beyond, the passage stands whole twice.

Comparing takes time in proportion, and guidelines of 50,000 odd characters must not keep a server busy.
"""

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_ASKED = {"off": "is not asked", "optional": "is optional", "required": "is required"}
_ANSWERED = {"scale": "1 to 7", "yes_no": "yes or no", "text": "a text"}


@dataclass(frozen=True)
class Piece:
    """A run of text that stayed, came or went; `left_out` stands for unchanged lines that are not shown."""

    kind: Kind
    text: str


def of_text(before: str, after: str) -> list[Piece]:
    """Return the pieces that turn one text into the other; empty when they are equal."""
    if before == after:
        return []
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    pieces: list[Piece] = []
    lines = SequenceMatcher(None, old, new).get_opcodes()
    for place, (kind, old_from, old_to, new_from, new_to) in enumerate(lines):
        if kind == "equal":
            pieces += _around(new[new_from:new_to], is_first=place == 0, is_last=place == len(lines) - 1)
        else:
            pieces += _of_words("".join(old[old_from:old_to]), "".join(new[new_from:new_to]))
    return _joined(pieces)


def of_questions(before: Questions, after: Questions) -> list[str]:
    """Return one sentence for each difference in what is asked."""
    found = []
    if before.strength != after.strength:
        found.append(f"Saying how much better an answer is, {_ASKED[after.strength]} now.")
    if before.line != after.line:
        now = "now" if after.line else "no longer"
        found.append(f"The line between acceptable and unacceptable answers is {now} asked.")
    if before.rank_at_least != after.rank_at_least:
        least = after.rank_at_least
        found.append(f"It is enough to rank the best {least}." if least else "Every answer is to be ranked.")
    if before.reason != after.reason:
        found.append(f"The reason {_ASKED[after.reason]} now.")
    if before.edits != after.edits:
        found.append(f"Answers can {'now' if after.edits else 'no longer'} be improved.")
    old = {criterion.key: criterion for criterion in before.criteria}
    new = {criterion.key: criterion for criterion in after.criteria}
    found += [f"New: “{item.label}” ({_described(item)})." for key, item in new.items() if key not in old]
    found += [f"No longer asked: “{item.label}”." for key, item in old.items() if key not in new]
    found += [
        f"Changed: “{item.label}” ({_described(item)})." for key, item in new.items() if key in old and item != old[key]
    ]
    return found


def _described(criterion: Criterion) -> str:
    ends = f", from “{criterion.low}” to “{criterion.high}”" if criterion.low and criterion.high else ""
    return _ANSWERED[criterion.kind] + ends + (", required" if criterion.required else "")


def _around(lines: Sequence[str], *, is_first: bool, is_last: bool) -> Iterator[Piece]:
    """Yield unchanged lines, of many only those next to a change."""
    head, tail = (0 if is_first else CONTEXT), (0 if is_last else CONTEXT)
    if len(lines) <= head + tail + 1:
        yield Piece("same", "".join(lines))
        return
    yield Piece("same", "".join(lines[:head]))
    yield Piece("left_out", f"{len(lines) - head - tail} lines as before")
    yield Piece("same", "".join(lines[len(lines) - tail :]))


def _of_words(before: str, after: str) -> Iterator[Piece]:
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) * len(new) > MOST_COMPARED:
        yield Piece("removed", before)
        yield Piece("added", after)
        return
    removed = added = ""
    for kind, old_from, old_to, new_from, new_to in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = "".join(old[old_from:old_to]), "".join(new[new_from:new_to])
        # A lone space between two changed words changes with them: "short and dull" reads better than three pieces.
        if kind == "equal" and not (removed + added and come.isspace() and "\n" not in come):
            yield from (Piece("removed", removed), Piece("added", added), Piece("same", come))
            removed = added = ""
        else:
            removed, added = removed + gone, added + come
    yield from (Piece("removed", removed), Piece("added", added))


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces without empty ones, neighbours of one kind as one."""
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].kind == piece.kind != "left_out":
            found[-1] = Piece(piece.kind, found[-1].text + piece.text)
        elif piece.text:
            found.append(piece)
    return found
