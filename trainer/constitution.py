"""A constitution and what is made with it: principles, revised answers, and a judge's verdicts. Standard library only.

    data/constitution.jsonl   {"id", "critique", "revision", "preference"}, one principle a line
    revisions.jsonl           {"prompt_id", "principle", "round", "answer", "critique", "revision", "finish_reason"}
    feedback.jsonl            {"comparison_id", "first", "second", "principle", "forward", "swapped", "probability"}

`critique` asks for what is wrong with an answer, `revision` for a better one, `preference` which of two is better.
(Bai et al. 2022, Constitutional AI.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.jsonl import RecordError, canonical, read_jsonl


@dataclass(frozen=True)
class Principle:
    """One rule, as the three questions that it asks of a model."""

    id: str
    critique: str
    revision: str
    preference: str


@dataclass(frozen=True)
class Revision:
    """One answer, what a principle finds wrong with it, and the answer after that. Rounds count from 1."""

    prompt_id: str
    principle: str
    round: int
    answer: str
    critique: str
    revision: str
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Verdict:
    """How probably a judge prefers completion `first` of a comparison to `second`, in each order and on average."""

    comparison_id: str
    first: int
    second: int
    principle: str
    forward: float  # shown first to second
    swapped: float  # shown second to first
    probability: float


def read_principles(path: Path) -> list[Principle]:
    """Read `constitution.jsonl`; raise `RecordError` for a line that is no principle, an id twice, or no line."""
    found: dict[str, Principle] = {}
    for number, row in read_jsonl(path):
        fields = {name: row.get(name) for name in ("id", "critique", "revision", "preference")}
        for name, value in fields.items():
            if not isinstance(value, str) or not value.strip():
                raise RecordError(f"{path.name} line {number}: {name} must be a text.")
        if fields["id"] in found:
            raise RecordError(f"{path.name} line {number}: the principle {fields['id']!r} is there twice.")
        found[str(fields["id"])] = Principle(**fields)  # type: ignore[arg-type]  # four texts, as just checked
    if not found:
        raise RecordError(f"{path.name} holds no principle.")
    return list(found.values())


def draw(principles: Sequence[Principle], count: int, *key: object) -> list[Principle]:
    """Return `count` different principles that the key decides: the same ones however a run is batched or resumed."""
    order = sorted(principles, key=lambda one: hashlib.sha256(canonical([one.id, *map(str, key)])).digest())
    return order[:count]


def keep_whole_batches(path: Path, keys: Sequence[object], in_batch: int, lines_each: int = 1) -> int:
    """Cut a file that was written batch by batch back to its whole batches; return how many of `keys` those cover.

    Every key has `lines_each` lines. All keys count as whole if all their lines are there.
    """
    if not path.exists():
        return 0
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    done = len(whole) // lines_each
    if done < len(keys):
        done = done // in_batch * in_batch
    aside = path.with_suffix(".partial")
    aside.write_bytes(b"".join(whole[: done * lines_each]))
    aside.replace(path)
    return done
