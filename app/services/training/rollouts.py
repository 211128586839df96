"""Sample outputs of a run over time, from the `rollouts.jsonl` that a method writes which learns from its own answers.

The file grows while the run works, so it is read to a limit: its beginning and its end. Whatever is no line of it is
passed over; texts are cut for the page, never interpreted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.models import Run
from app.services.training import run_files

HEAD_BYTES, TAIL_BYTES = 2 << 20, 6 << 20
LONGEST_TEXT = 4000
MOST_PROMPTS = 8


@dataclass(frozen=True)
class Sample:
    """One answer that the policy gave: when, to what, and what it was worth. Numbers that are not there are None."""

    iteration: int
    prompt_id: str
    text: str
    is_cut: bool
    tokens: int | None
    finish_reason: str
    reward: float | None
    kl: float | None


@dataclass(frozen=True)
class SamePrompt:
    """Answers to one prompt from early, middle and late in the run, the earliest first."""

    prompt: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Samples:
    """What the page of samples shows. `left` and `right` are two iterations beside each other."""

    iterations: tuple[int, ...]
    over_time: tuple[SamePrompt, ...]
    left: int
    right: int
    pairs: tuple[tuple[tuple[str, Sample] | None, tuple[str, Sample] | None], ...]


def read(run: Run, left: int | None = None, right: int | None = None) -> Samples | None:
    """Return the samples of a run, None when there are none here. An iteration that is not there becomes a near one."""
    path = run_files.find(run, "rollouts.jsonl")
    found = list(_samples(path)) if path else []
    if not found:
        return None
    iterations = sorted({sample.iteration for sample in found})
    first = _nearest(iterations, left, iterations[0])
    second = _nearest(iterations, right, iterations[-1])
    chosen = _over_time(found)
    beside = [[sample for sample in found if sample.iteration == iteration] for iteration in (first, second)]
    shown = [sample for samples in (*chosen, *beside) for sample in samples]
    prompts = _prompts(run, {sample.prompt_id for sample in shown})

    def named(samples: Sequence[Sample], place: int) -> tuple[str, Sample] | None:
        if place >= len(samples):
            return None
        return prompts.get(samples[place].prompt_id, ""), samples[place]

    return Samples(
        iterations=tuple(iterations),
        over_time=tuple(SamePrompt(prompts.get(item[0].prompt_id, ""), item) for item in chosen),
        left=first,
        right=second,
        pairs=tuple((named(beside[0], n), named(beside[1], n)) for n in range(max(map(len, beside)))),
    )


def _nearest(iterations: Sequence[int], wanted: int | None, otherwise: int) -> int:
    return otherwise if wanted is None else min(iterations, key=lambda item: abs(item - wanted))


def _over_time(found: Sequence[Sample]) -> list[tuple[Sample, ...]]:
    """Return the prompts that came back, those with the longest time between first, as three samples each at most."""
    by_prompt: dict[str, dict[int, Sample]] = defaultdict(dict)
    for sample in found:
        by_prompt[sample.prompt_id].setdefault(sample.iteration, sample)
    chosen = []
    for samples in (list(items.values()) for items in by_prompt.values() if len(items) > 1):
        samples.sort(key=lambda sample: sample.iteration)
        middle = [samples[len(samples) // 2]] if len(samples) > 2 else []
        chosen.append((samples[0], *middle, samples[-1]))
    chosen.sort(key=lambda samples: samples[0].iteration - samples[-1].iteration)
    return chosen[:MOST_PROMPTS]


def _samples(path: Path) -> Iterator[Sample]:
    for line in _lines(path):
        try:
            row = json.loads(line)
            iteration, prompt_id, text = int(row["iteration"]), str(row["prompt_id"]), str(row["text"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        tokens = row.get("tokens")
        yield Sample(
            iteration=iteration,
            prompt_id=prompt_id,
            text=text[:LONGEST_TEXT],
            is_cut=len(text) > LONGEST_TEXT,
            tokens=tokens if isinstance(tokens, int) else None,
            finish_reason=str(row.get("finish_reason", "")),
            reward=_number(row.get("reward")),
            kl=_number(row.get("kl")),
        )


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a file; of a large one those of its beginning and its end."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if size <= HEAD_BYTES + TAIL_BYTES:
            yield from (line for line in file.read(size).splitlines(keepends=True) if line.endswith(b"\n"))
            return
        head = file.read(HEAD_BYTES)
        file.seek(size - TAIL_BYTES)
        tail = file.read(TAIL_BYTES)
    yield from head[: head.rfind(b"\n") + 1].splitlines()
    yield from tail[tail.find(b"\n") + 1 : tail.rfind(b"\n") + 1].splitlines()


def _prompts(run: Run, ids: set[str]) -> dict[str, str]:
    """Return the last message of each of these prompts, from the run's own copy of its data."""
    path = run_files.find(run, "data/prompts.jsonl")
    texts: dict[str, str] = {}
    if path is None:
        return texts
    wanted = {item.encode(): item for item in ids}
    with path.open("rb") as file:
        for line in file:
            if len(texts) == len(wanted):
                break
            if not any(item in line for item in wanted):
                continue
            try:
                row = json.loads(line)
                if row["id"] in ids:
                    texts[row["id"]] = str(row["messages"][-1]["content"])[:LONGEST_TEXT]
            except (ValueError, KeyError, TypeError, IndexError):
                continue
    return texts


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
