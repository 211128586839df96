"""Supervised fine-tuning on demonstrations: cross-entropy of the answer's tokens, with its end token, and of no others.

    python -m trainer sft --run DIR

Reads data/demonstrations.jsonl (train split), watches the held-out split, and leaves a whole model in final/.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import checkpoint, data, modeling, optim, report
from trainer.config import ConfigError, RunConfig, SftOptions
from trainer.device import Device, setup
from trainer.losses import sft_loss
from trainer.records import EXIT_DONE, EXIT_STOPPED, Demonstration, MetricsFile, read_demonstrations
from trainer.stop import StopSignal


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("SftOptions", config.options)

    # 1. The data, before anything slow.
    demonstrations = [row for row in read_demonstrations(run_dir / "data" / "demonstrations.jsonl") if row.weight > 0]
    train = [row for row in demonstrations if row.split == "train"]
    held_out = [row for row in demonstrations if row.split == "held_out"]
    if not train:
        raise ConfigError("data/demonstrations.jsonl has no demonstration in the train split; write some first.")
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    truncation = data.Truncation()
    sequences = [_encode(tokenizer, row, config, truncation) for row in train]
    held_out_sequences = [_encode(tokenizer, row, config, truncation) for row in held_out]

    # 2. The model, and where an earlier attempt left it.
    model = modeling.load_trainable(config, device)
    optimizer = optim.build(model.parameters(), options.optim)
    done, _ = checkpoint.resume(run_dir, {"policy": model}, {"policy": optimizer})

    # 3. Train.
    steps = data.plan(len(train), options.optim, config.seed)
    each = data.steps_per_epoch(len(train), options.optim)
    with MetricsFile(run_dir) as metrics:
        for step, items in enumerate(steps[done:], start=done + 1):
            started = time.perf_counter()
            # The mean is over the completion tokens of the whole step, however it is split into forwards.
            step_tokens = sum(train[i].weight * len(sequences[i].completion) for i in items)
            loss, tokens = 0.0, 0
            sizes = [(1, sequences[i].length) for i in items]
            for part in data.micro_batches(sizes, options.optim.tokens_per_forward):
                rows = [items[i] for i in part]
                batch = data.collate([sequences[i] for i in rows], tokenizer.pad_token_id, device.device)
                weights = torch.tensor([train[i].weight / step_tokens for i in rows], device=device.device)
                with device.autocast():
                    logps = modeling.completion_logps(model, batch)
                part_loss = sft_loss(logps, batch.completion_mask, weights)
                torch.autograd.backward(part_loss)
                loss += part_loss.item()
                tokens += batch.tokens
            rate, norm = optim.update(optimizer, loss, options.optim, step, len(steps))

            # 4. Tell, watch, save.
            watched = {}
            if held_out and step % each == 0 and step < len(steps):  # the last epoch's is in the report
                watched["held_out_loss"] = held_out_loss(
                    model, held_out_sequences, tokenizer.pad_token_id, options.optim.tokens_per_forward, device
                )
            metrics.write(
                step,
                total_steps=len(steps),
                epoch=step / each,
                loss=loss,
                **watched,
                learning_rate=rate,
                grad_norm=norm,
                tokens=tokens,
                tokens_per_second=round(tokens / (time.perf_counter() - started), 1),
                peak_memory_mb=device.peak_memory_mb(),
            )
            if stop.requested or step % config.checkpoint_steps == 0 or step == len(steps):
                checkpoint.save(run_dir, step, {"policy": model}, {"policy": optimizer})
            if stop.requested:
                return EXIT_STOPPED

    # 5. Judge what will be saved: the merged model in the precision of the run.
    model = modeling.cast_weights(modeling.merge_lora(model), device.dtype)
    summary: dict[str, object] = {
        "train_demonstrations": len(train),
        "held_out_demonstrations": len(held_out),
        "truncated_prompts": truncation.prompts,
        "truncated_completions": truncation.completions,
        "headline": f"Fine-tuned on {len(train)} demonstrations.",
    }
    if held_out:
        after = held_out_loss(
            model, held_out_sequences, tokenizer.pad_token_id, options.optim.tokens_per_forward, device
        )
        summary |= {"held_out_loss": after, "held_out_perplexity": math.exp(min(after, 50.0))}
        summary["headline"] = f"Fine-tuned on {len(train)} demonstrations; held-out loss {after:.3f} nats a token."

    # 6. Save and report.
    checkpoint.write_final(run_dir, lambda folder: modeling.save_policy(model, tokenizer, folder, device.dtype))
    report.write(run_dir, config, summary)
    return EXIT_DONE


def _encode(
    tokenizer: PreTrainedTokenizerBase, row: Demonstration, config: RunConfig, truncation: data.Truncation
) -> data.Sequence:
    return data.encode(tokenizer, row.messages, [row.completion], config.max_length, truncation)[0]


@torch.no_grad()
def held_out_loss(
    model: PreTrainedModel, sequences: list[data.Sequence], pad_id: int, tokens_per_forward: int, device: Device
) -> float:
    """Return the mean negative log-likelihood of the completions' tokens, in nats."""
    sizes = [(1, sequence.length) for sequence in sequences]
    total = 0.0
    for part in data.micro_batches(sizes, tokens_per_forward):
        batch = data.collate([sequences[i] for i in part], pad_id, device.device)
        with device.autocast():
            total -= modeling.completion_logps(model, batch).sum().item()
    return total / sum(len(sequence.completion) for sequence in sequences)
