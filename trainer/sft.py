"""Supervised fine-tuning on demonstrations: cross-entropy of answers with their end tokens, and of no other tokens.

    python -m trainer sft --run DIR

Reads data/demonstrations.jsonl (train split), watches the held-out split, and leaves a whole model in final/.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import chat_template, checkpoint, data, model_card, modeling, optim, report
from trainer.config import ConfigError, RunConfig, SftOptions
from trainer.device import setup
from trainer.layout import Layout
from trainer.losses import sft_loss
from trainer.records import EXIT_DONE, EXIT_STOPPED, Demonstration
from trainer.reference import chunks
from trainer.stop import StopSignal
from trainer.stored import StoredDemonstrations
from trainer.tree import Tree


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("SftOptions", config.options)

    # 1. The data, before anything slow. A demonstration is read from the file when a step needs it.
    path, truncation = run_dir / "data" / "demonstrations.jsonl", data.Truncation()
    tokenizer = modeling.load_tokenizer(config.model)
    template = chat_template.facts(config.model, tokenizer)
    as_tree = partial(encode, tokenizer, options, config.max_length)
    train, held_out = (StoredDemonstrations(path, split, as_tree, truncation) for split in ("train", "held_out"))
    if not train:
        raise ConfigError("data/demonstrations.jsonl has no demonstration in the train split; write some first.")
    if options.turns == "all":  # what the chat template cannot say is refused now, not in the middle of the run
        deque((tree for trees in (train, held_out) for tree in trees), maxlen=0)
    device = setup(config)
    team = device.team

    # 2. The model, and where an earlier attempt left it.
    model = modeling.load_trainable(config, device)
    layout = modeling.choose_layout(model, options.optim.tokens_per_forward, device)
    work = modeling.prepare_training(model, options.optim, device)
    optimizer = optim.build(model.parameters(), options.optim)
    done, counters = checkpoint.resume(run_dir, {"policy": model}, {"policy": optimizer}, team)
    layout.resume(counters, run_dir)

    # 3. Train.
    steps = data.plan(len(train), options.optim, config.seed)
    each = data.steps_per_epoch(len(train), options.optim)
    with team.metrics(run_dir) as metrics:
        for step, items in enumerate(steps[done:], start=done + 1):
            started = time.perf_counter()
            step_trees, step_weights = [train[i] for i in items], [train.weights[i] for i in items]
            loss, tokens = layout.step(partial(backward, model, step_trees, step_weights, layout), optimizer)
            if step == 1:
                optim.check_gradients(model)
            rate, norm = optim.update(optimizer, loss, options.optim, step, len(steps))

            # 4. Tell, watch, save.
            watched = {}
            if held_out and step % each == 0 and step < len(steps):  # the last epoch's is in the report
                watched["held_out_loss"] = held_out_loss(model, held_out, layout)
            metrics.write(
                step,
                total_steps=len(steps),
                epoch=step / each,
                loss=loss,
                **watched,
                learning_rate=rate,
                grad_norm=norm,
                tokens=tokens,
                **device.speed(tokens, layout.take_load(), work, time.perf_counter() - started),
            )
            stops = team.any(stop.requested)
            if stops or step % config.checkpoint_steps == 0 or step == len(steps):
                checkpoint.save(run_dir, step, {"policy": model}, {"policy": optimizer}, layout.counters(), team)
            if stops:
                return EXIT_STOPPED

    # 5. Judge what will be saved: the merged model in the precision of the run.
    model = modeling.cast_weights(modeling.merge_lora(model), device.dtype)
    summary: dict[str, object] = {
        "train_demonstrations": len(train),
        "held_out_demonstrations": len(held_out),
        "truncated_prompts": truncation.prompts,
        "truncated_completions": truncation.completions,
        **template,
        "headline": f"Fine-tuned on {len(train)} demonstrations.",
    }
    if held_out:
        after = held_out_loss(model, held_out, layout)
        summary |= {"held_out_loss": after, "held_out_perplexity": math.exp(min(after, 50.0))}
        summary["headline"] = f"Fine-tuned on {len(train)} demonstrations; held-out loss {after:.3f} nats a token."

    # 6. Save and report.
    model = modeling.assemble(model, config, device)
    if not team.leads:
        return EXIT_DONE
    checkpoint.write_final(
        run_dir,
        lambda folder: modeling.save_policy(model, tokenizer, folder, device.dtype),
        model_card.text(run_dir, config, summary),
    )
    report.write(run_dir, config, summary)
    return EXIT_DONE


def encode(
    tokenizer: PreTrainedTokenizerBase,
    options: SftOptions,
    max_length: int,
    row: Demonstration,
    truncation: data.Truncation,
) -> Tree:
    """Return a demonstration as a tree of one completion."""
    if options.turns == "all":
        return data.encode_turns(tokenizer, row.messages, row.completion, max_length, truncation)
    return data.encode(tokenizer, row.messages, [row.completion], max_length, truncation)


def backward(model: PreTrainedModel, trees: list[Tree], weights: list[float], layout: Layout) -> tuple[float, int]:
    """Add the gradients of one step and return its loss and the tokens forwarded.

    The mean is over the weighted completion tokens of the whole step, however it is split.
    """
    step_tokens = sum(weight * one.asked for weight, one in zip(weights, trees, strict=True))
    loss, tokens = 0.0, 0
    for part, batch in layout.batches(trees):
        with layout.device.autocast():
            logps = modeling.completion_logps(model, batch)
        shares = torch.tensor([weights[i] / step_tokens for i in part], device=logps.device)
        part_loss = sft_loss(logps, shares[batch.owners])
        torch.autograd.backward(part_loss)
        loss += part_loss.item()
        tokens += batch.tokens
    return loss, tokens


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, trees: Sequence[Tree], layout: Layout) -> float:
    """Return the mean negative log-likelihood of the completions' tokens, in nats."""
    parts = [layout.repeat(partial(_summed_loss, model, some, layout)) for some in chunks(trees)]
    total, count = layout.device.team.total(*(sum(column) for column in zip(*parts, strict=True)))
    return total / count


def _summed_loss(model: PreTrainedModel, trees: Sequence[Tree], layout: Layout) -> tuple[float, int]:
    """Return the negative log-likelihood of this process's share of the trees, and of how many tokens it is."""
    total, count = 0.0, 0
    for _, batch in layout.batches(trees):
        with layout.device.autocast():
            total -= modeling.completion_logps(model, batch).sum().item()
        count += len(batch.targets)
    return total, count
