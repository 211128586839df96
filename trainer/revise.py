"""Critique and revision: a model answers, finds fault with its answer by a principle, and answers again.

    python -m trainer revise --run DIR

Reads data/prompts.jsonl and data/constitution.jsonl; appends to revisions.jsonl batch by batch and leaves the last
revisions as demonstrations.jsonl, to be learned by `sft` (Bai et al. 2022, Constitutional AI, 3.1). Each round draws a
principle for each prompt. A run that was stopped goes on after its last whole batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trainer import checkpoint, modeling, report, rollout
from trainer.config import ConfigError, ReviseOptions, RunConfig
from trainer.constitution import Principle, Revision, draw, keep_whole_batches, read_principles
from trainer.data import prompt_ids
from trainer.device import setup
from trainer.jsonl import append_jsonl, read_jsonl, write_jsonl
from trainer.metrics import MetricsFile
from trainer.records import EXIT_DONE, EXIT_STOPPED, Demonstration, Message, Prompt, read_prompts
from trainer.stop import StopSignal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Revise, and return the exit code."""
    options = cast("ReviseOptions", config.options)

    # 1. The prompts and principles, the model, and how far an earlier attempt came.
    prompts = read_prompts(run_dir / "data" / "prompts.jsonl")
    if not prompts:
        raise ConfigError("data/prompts.jsonl holds no prompt; import prompts first.")
    principles = read_principles(run_dir / "data" / "constitution.jsonl")
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    check_room(tokenizer, prompts, principles, config)
    model = modeling.load_policy(config.model, device.dtype, device.device)
    path = run_dir / "revisions.jsonl"
    in_batch = options.sampling.batch_size
    start = keep_whole_batches(path, prompts, in_batch, options.rounds)
    checkpoint.cut_metrics(run_dir, start)

    # 2. Answer, criticise, revise.
    with MetricsFile(run_dir) as metrics:
        for first in range(start, len(prompts), in_batch):
            if stop.requested:
                return EXIT_STOPPED
            started = time.perf_counter()
            asked = prompts[first : first + in_batch]
            rows, tokens = revise(model, tokenizer, asked, principles, config)
            append_jsonl(path, [asdict(row) for row in rows])
            metrics.write(
                first + len(asked),
                total_steps=len(prompts),
                tokens=tokens,
                ended=sum(row.finish_reason == "stop" for row in rows) / len(rows),
                tokens_per_second=round(tokens / (time.perf_counter() - started), 1),
                peak_memory_mb=device.peak_memory_mb(),
            )

    # 3. What is to be learned from: the last round's revisions that came to an end and say something.
    revisions = [Revision(**row) for _, row in read_jsonl(path)]
    last = {row.prompt_id: row for row in revisions if row.round == options.rounds}
    usable = [
        prompt for prompt in prompts if last[prompt.id].finish_reason == "stop" and last[prompt.id].revision.strip()
    ]
    write_jsonl(
        run_dir / "demonstrations.jsonl",
        [Demonstration(prompt.id, prompt.messages, last[prompt.id].revision, split=prompt.split) for prompt in usable],
    )
    changed = sum(row.answer.strip() != row.revision.strip() for row in revisions)
    report.write(
        run_dir,
        config,
        {
            "headline": (
                f"{len(usable)} of {len(prompts)} revised answers can be learned from; the others were cut by the "
                "length limit or say nothing."
            ),
            "prompts": len(prompts),
            "principles": len(principles),
            "rounds": options.rounds,
            "demonstrations": len(usable),
            "share_changed": changed / len(revisions),
        },
    )
    return EXIT_DONE


def check_room(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], principles: Sequence[Principle], config: RunConfig
) -> None:
    """Refuse a prompt whose conversation with answer, critique and revision might not fit `max_length`."""
    new = cast("ReviseOptions", config.options).sampling.max_new_tokens
    for prompt in prompts:
        bare = max(len(prompt_ids(tokenizer, revision_question(prompt, "", one, ""))) for one in principles)
        if bare + 3 * new > config.max_length:
            raise ConfigError(
                f"Prompt {prompt.id} with the questions of the constitution has {bare} tokens; with answer, critique "
                f"and revision of {new} tokens each that is more than max_length {config.max_length}. Raise "
                "max_length, lower sampling.max_new_tokens or leave the prompt out."
            )


def critique_question(prompt: Prompt, answer: str, principle: Principle) -> list[Message]:
    """Return the conversation that asks what is wrong with an answer."""
    return [*prompt.messages, Message("assistant", answer), Message("user", principle.critique)]


def revision_question(prompt: Prompt, answer: str, principle: Principle, critique: str) -> list[Message]:
    """Return the conversation that asks for a better answer."""
    asked = critique_question(prompt, answer, principle)
    return [*asked, Message("assistant", critique), Message("user", principle.revision)]


def revise(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
    config: RunConfig,
) -> tuple[list[Revision], int]:
    """Return every round of every prompt, prompt by prompt, and how many tokens were sampled."""
    options = cast("ReviseOptions", config.options)
    ends = rollout.end_ids(model, tokenizer)
    total = 0

    def say(conversations: list[list[Message]], turn: str) -> list[rollout.Answer]:
        nonlocal total
        names = [f"{prompt.id}/{turn}" for prompt in prompts]
        noise = rollout.noise(config.seed, names, options.sampling.max_new_tokens)
        ids = [prompt_ids(tokenizer, messages) for messages in conversations]
        said = rollout.sample(model, ids, options.sampling, ends, noise)
        total += sum(len(answer.ids) for answer in said)
        return said

    answers = [rollout.text_of(tokenizer, one) for one in say([list(p.messages) for p in prompts], "answer")]
    rounds: list[list[Revision]] = []
    for number in range(1, options.rounds + 1):
        drawn = [draw(principles, 1, config.seed, prompt.id, number)[0] for prompt in prompts]
        asked = [critique_question(*row) for row in zip(prompts, answers, drawn, strict=True)]
        critiques = [rollout.text_of(tokenizer, one) for one in say(asked, f"critique {number}")]
        asked = [revision_question(*row) for row in zip(prompts, answers, drawn, critiques, strict=True)]
        revised = say(asked, f"revision {number}")
        texts = [rollout.text_of(tokenizer, one) for one in revised]
        rounds.append(
            [
                Revision(prompt.id, one.id, number, answer, critique, text, found.finish_reason)
                for prompt, one, answer, critique, text, found in zip(
                    prompts, drawn, answers, critiques, texts, revised, strict=True
                )
            ]
        )
        answers = texts
    return [row for rows in zip(*rounds, strict=True) for row in rows], total
