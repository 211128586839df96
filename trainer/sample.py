"""Sampling: K answers to every prompt, to be ranked by labelers.

    python -m trainer sample --run DIR

Reads data/prompts.jsonl and appends to samples.jsonl batch by batch. A run that was stopped goes on after the last
whole batch; what it then has written is what an uninterrupted run writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from trainer import checkpoint, modeling, report, rollout
from trainer.config import ConfigError, RunConfig, SampleOptions
from trainer.device import setup
from trainer.records import (
    EXIT_DONE,
    EXIT_STOPPED,
    MetricsFile,
    Prompt,
    Sample,
    append_jsonl,
    read_prompts,
    read_samples,
)
from trainer.stop import StopSignal


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Sample, and return the exit code."""
    options = cast("SampleOptions", config.options)
    sampling, each = options.sampling, options.samples_per_prompt

    # 1. The prompts, the model, and how far an earlier attempt came.
    prompts = read_prompts(run_dir / "data" / "prompts.jsonl")
    if not prompts:
        raise ConfigError("data/prompts.jsonl holds no prompt; import prompts first.")
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    encoded = rollout.encode_prompts(tokenizer, prompts, sampling, config.max_length)
    model = modeling.load_policy(config.model, device.dtype, device.device)
    ends = rollout.end_ids(model, tokenizer)
    in_batch = max(1, sampling.batch_size // each)
    path = run_dir / "samples.jsonl"
    start = keep_whole_batches(path, prompts, each, in_batch)
    checkpoint.cut_metrics(run_dir, start)

    # 2. Sample the rest.
    with MetricsFile(run_dir) as metrics:
        for first in range(start, len(prompts), in_batch):
            if stop.requested:
                return EXIT_STOPPED
            started = time.perf_counter()
            rows = [(n, index) for n in range(first, min(first + in_batch, len(prompts))) for index in range(each)]
            noise = rollout.noise(config.seed, [f"{prompts[n].id}/{i}" for n, i in rows], sampling.max_new_tokens)
            answers = rollout.sample(model, [encoded[n] for n, _ in rows], sampling, ends, noise)
            append_jsonl(
                path,
                [
                    Sample(
                        config.model,
                        prompts[n].id,
                        index,
                        rollout.text_of(tokenizer, answer),
                        len(answer.ids),
                        answer.finish_reason,
                    )
                    for (n, index), answer in zip(rows, answers, strict=True)
                ],
            )
            tokens = sum(len(answer.ids) for answer in answers)
            metrics.write(
                min(first + in_batch, len(prompts)),
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
    report.write(
        run_dir,
        config,
        {
            "headline": f"{len(samples)} answers to {len(prompts)} prompts; {ended:.0%} ended by themselves.",
            "prompts": len(prompts),
            "answers": len(samples),
            "ended": ended,
            "mean_tokens": length,
        },
    )
    return EXIT_DONE


def keep_whole_batches(path: Path, prompts: Sequence[Prompt], each: int, in_batch: int) -> int:
    """Cut `samples.jsonl` back to its whole batches and return how many prompts they answer.

    Raises `ConfigError` when the file holds answers to other prompts than these.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    done = len(whole) // each if len(whole) == len(prompts) * each else len(whole) // each // in_batch * in_batch
    if lines:
        aside = path.with_suffix(".partial")
        aside.write_bytes(b"".join(whole[: done * each]))
        found = [(row.prompt_id, row.index) for row in read_samples(aside)]
        if found == [(prompt.id, index) for prompt in prompts[:done] for index in range(each)]:
            aside.replace(path)
        else:
            aside.unlink()
            raise ConfigError(
                f"{path} holds answers to other prompts than data/prompts.jsonl; use a new run directory."
            )
    return done
