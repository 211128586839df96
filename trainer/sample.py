"""Sampling: K answers to every prompt, to be ranked by labelers; of one policy, or of several by their shares.

    python -m trainer sample --run DIR

Reads data/prompts.jsonl and appends to samples.jsonl batch by batch, policy after policy: one model is in memory at a
time. A run that was stopped goes on after the last whole batch; what it then has written is what an uninterrupted run
writes.
"""

from __future__ import annotations

import bisect
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast

from trainer import checkpoint, modeling, report, rollout
from trainer.config import ConfigError, PolicyShare, RunConfig, SampleOptions
from trainer.device import Device, setup
from trainer.jsonl import append_jsonl
from trainer.metrics import MetricsFile
from trainer.records import EXIT_DONE, EXIT_STOPPED, Prompt, Sample, read_prompts, read_samples
from trainer.stop import StopSignal


class Row(NamedTuple):
    """One answer to be drawn: which policy's, to which prompt, and which of that prompt's answers it will be."""

    policy: int
    prompt: int
    place: int


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Sample, and return the exit code."""
    options = cast("SampleOptions", config.options)

    # 1. The prompts, who answers which, and how far an earlier attempt came.
    prompts = read_prompts(run_dir / "data" / "prompts.jsonl")
    if not prompts:
        raise ConfigError("data/prompts.jsonl holds no prompt; import prompts first.")
    device = setup(config)
    policies = options.policies or (PolicyShare(config.model, config.model),)
    batches = plan(prompts, policies, options, config.seed)
    path = run_dir / "samples.jsonl"
    for policy in policies:
        rollout.check_prompts(modeling.load_tokenizer(policy.model), prompts, options.sampling, config.max_length)
    start = keep_whole_batches(path, prompts, policies, batches)
    counts = list(accumulate((len(batch) for batch in batches), initial=0))
    checkpoint.cut_metrics(run_dir, counts[start] // options.samples_per_prompt)

    # 2. Sample the rest. Progress counts prompts, or what comes to as much of several policies' answers.
    loaded: tuple[int, Any] | None = None
    with MetricsFile(run_dir) as metrics:
        for number, batch in enumerate(batches[start:], start=start):
            if stop.requested:
                return EXIT_STOPPED
            started = time.perf_counter()
            policy = policies[batch[0].policy]
            if loaded is None or loaded[0] != batch[0].policy:
                loaded = None  # the model before is let go first
                loaded = batch[0].policy, _Policy(policy, prompts, options, config, device)
            answers = loaded[1].answer(batch)
            append_jsonl(path, answers)
            tokens = sum(answer.tokens for answer in answers)
            metrics.write(
                counts[number + 1] // options.samples_per_prompt,
                total_steps=len(prompts),
                tokens=tokens,
                ended=sum(answer.finish_reason == "stop" for answer in answers) / len(answers),
                tokens_per_second=round(tokens / (time.perf_counter() - started), 1),
                peak_memory_mb=device.peak_memory_mb(),
            )

    # 3. Report.
    samples = read_samples(path)
    ended = sum(row.finish_reason == "stop" for row in samples) / len(samples)
    length = sum(row.tokens for row in samples) / len(samples)
    summary: dict[str, Any] = {
        "headline": f"{len(samples)} answers to {len(prompts)} prompts; {ended:.0%} ended by themselves.",
        "prompts": len(prompts),
        "answers": len(samples),
        "ended": ended,
        "mean_tokens": length,
    }
    if options.policies:
        summary["answers_by_policy"] = dict(Counter(row.policy for row in samples))
    report.write(run_dir, config, summary)
    return EXIT_DONE


class _Policy:
    """A policy in memory, with its prompts encoded by its own tokenizer."""

    def __init__(
        self, policy: PolicyShare, prompts: Sequence[Prompt], options: SampleOptions, config: RunConfig, device: Device
    ) -> None:
        temperature = options.sampling.temperature if policy.temperature is None else policy.temperature
        self._name, self._prompts, self._seed = policy.name, prompts, config.seed
        self._sampling = replace(options.sampling, temperature=temperature)
        self._tokenizer = modeling.load_tokenizer(policy.model)
        self._encoded = rollout.encode_prompts(self._tokenizer, prompts, self._sampling, config.max_length)
        self._room = rollout.Room(self._sampling.batch_size)
        self._model = modeling.load_policy(policy.model, device.dtype, device.device)
        self._ends = rollout.end_ids(self._model, self._tokenizer)

    def answer(self, rows: Sequence[Row]) -> list[Sample]:
        names = [f"{self._prompts[row.prompt].id}/{row.place}" for row in rows]
        noise = rollout.noise(self._seed, names, self._sampling.max_new_tokens)
        encoded = [self._encoded[row.prompt] for row in rows]
        answers = rollout.sample(self._model, encoded, self._sampling, self._ends, noise, self._room)
        return [
            Sample(
                self._name,
                self._prompts[row.prompt].id,
                row.place,
                rollout.text_of(self._tokenizer, answer),
                len(answer.ids),
                answer.finish_reason,
            )
            for row, answer in zip(rows, answers, strict=True)
        ]


def plan(
    prompts: Sequence[Prompt], policies: Sequence[PolicyShare], options: SampleOptions, seed: int
) -> list[list[Row]]:
    """Return the batches: the rows of the first policy in the prompts' order, then those of the next."""
    each = options.samples_per_prompt
    size = max(1, options.sampling.batch_size // each) * each
    rows: list[list[Row]] = [[] for _ in policies]
    for n, prompt in enumerate(prompts):
        for index, policy in enumerate(shared_out(prompt.id, [item.share for item in policies], each, seed)):
            rows[policy].append(Row(policy, n, index))
    return [of[first : first + size] for of in rows for first in range(0, len(of), size)]


def shared_out(name: str, shares: Sequence[float], count: int, seed: int) -> list[int]:
    """Return which policy writes each of a prompt's `count` answers, in the order of the policies.

    Systematic sampling: equidistant points over the shares laid end to end, from a start that the prompt's name and the
    seed decide. A policy gets its share of `count` rounded up or down, and its exact share on average over prompts.
    """
    digest = hashlib.sha256(f"{seed}/{name}/policies".encode()).digest()
    offset = int.from_bytes(digest[:8], "big") / 2**64
    ends = list(accumulate(shares))
    points = ((offset + index) / count * ends[-1] for index in range(count))
    return [min(bisect.bisect_right(ends, point), len(shares) - 1) for point in points]


def keep_whole_batches(
    path: Path, prompts: Sequence[Prompt], policies: Sequence[PolicyShare], batches: Sequence[Sequence[Row]]
) -> int:
    """Cut `samples.jsonl` back to its whole batches and return how many they are.

    Raises `ConfigError` when the file holds answers to other prompts, or of other policies, than these.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    counts = list(accumulate((len(batch) for batch in batches), initial=0))
    done = bisect.bisect_right(counts, len(whole)) - 1
    if lines:
        aside = path.with_suffix(".partial")
        aside.write_bytes(b"".join(whole[: counts[done]]))
        found = [(row.policy, row.prompt_id, row.index) for row in read_samples(aside)]
        wanted = [
            (policies[row.policy].name, prompts[row.prompt].id, row.place) for batch in batches[:done] for row in batch
        ]
        if found == wanted:
            aside.replace(path)
        else:
            aside.unlink()
            raise ConfigError(
                f"{path} holds answers to other prompts than data/prompts.jsonl; use a new run directory."
            )
    return done
