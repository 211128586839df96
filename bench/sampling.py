"""Sampling from a policy: our loop beside transformers' `generate`, same prompts, same length, same precision.

Both draw at temperature 1 over the whole vocabulary. Answers that end early leave our batch; `generate` carries them on
as padding. Tokens are counted up to and with the end token, so that both are paid for the same thing.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import torch

import app.demo
from app.demo.model import ensure_model
from app.settings import get_settings
from trainer import rollout
from trainer.config import RunConfig, SampleOptions, Sampling
from trainer.device import setup
from trainer.modeling import load_policy, load_tokenizer
from trainer.records import Message, Prompt

ROUNDS = 5
SAMPLING = Sampling(max_new_tokens=64, temperature=1.0, batch_size=32)


def main() -> None:
    """Measure in turns on the demo's model and print medians and the range of the ratio."""
    folder = ensure_model(get_settings().var / "models")
    device = setup(RunConfig(run_id="bench", method="sample", model=str(folder), options=SampleOptions()))
    tokenizer = load_tokenizer(str(folder))
    model = load_policy(str(folder), device.dtype, device.device)
    lines = (Path(app.demo.__file__).parent / "data" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [
        Prompt(str(n), tuple(Message(**turn) for turn in json.loads(line)["messages"]))
        for n, line in enumerate(lines[: SAMPLING.batch_size])
    ]
    encoded = rollout.encode_prompts(tokenizer, prompts, SAMPLING, max_length=512)
    ends = rollout.end_ids(model, tokenizer)

    def ours(seed: int) -> int:
        uniforms = rollout.noise(seed, [prompt.id for prompt in prompts], SAMPLING.max_new_tokens)
        return sum(len(answer.ids) for answer in rollout.sample(model, encoded, SAMPLING, ends, uniforms))

    def generate(seed: int) -> int:
        torch.manual_seed(seed)
        ids, mask = rollout.left_pad(encoded, model.device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=SAMPLING.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )[:, ids.shape[1] :]
        ended = torch.isin(out, torch.tensor(ends, device=out.device)).long()
        first = torch.where(ended.any(dim=1), ended.argmax(dim=1) + 1, out.shape[1])
        return int(first.sum())

    rates: dict[str, list[float]] = {"ours": [], "generate": []}
    for seed in range(ROUNDS + 1):
        for name, way in (("ours", ours), ("generate", generate)):
            started = time.perf_counter()
            tokens = way(seed)
            if seed:  # the first round warms up
                rates[name].append(tokens / (time.perf_counter() - started))
    ratios = sorted(mine / theirs for mine, theirs in zip(rates["ours"], rates["generate"], strict=True))
    print(
        f"sampling: batch {SAMPLING.batch_size}, at most {SAMPLING.max_new_tokens} tokens, {device.dtype}, "
        f"{ROUNDS} rounds: {statistics.median(rates['ours']):.0f} tokens/s, generate "
        f"{statistics.median(rates['generate']):.0f}/s, ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
