"""What trainer tests are built from: a tokenizer, data rows, and readers of a run's files."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainer import data, reward_model, tree
from trainer.__main__ import main
from trainer.config import parse_run
from trainer.device import Device
from trainer.manifest import file_sha256
from trainer.records import Comparison, Demonstration, Message, Prompt
from trainer.stop import StopSignal

CPU = Device(torch.device("cpu"), torch.float32)
SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ 'assistant' if message['role'] == 'assistant' else 'user' }}>"
    "{{ message['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
MakeRun = Callable[..., Path]
"""What the fixture `make_run` gives: it writes a run directory."""

WORDS = ("red", "blue", "green", "small", "large", "old", "new", "fast", "slow", "warm")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, with a chat template and a pad token that is not the end token."""
    vocabulary = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", chat_template=CHAT_TEMPLATE
    )


def ask(text: str) -> tuple[Message, ...]:
    """Return a conversation of one question."""
    return (Message("user", text),)


def some_demonstrations(train: int, held_out: int = 0) -> list[Demonstration]:
    """Return demonstrations that repeat the prompt's word, of different lengths."""
    return [
        Demonstration(
            f"d{i}",
            ask(f"say {WORDS[i % 10]} {i}"),
            " ".join([WORDS[i % 10]] * (1 + i % 3)),
            split="train" if i < train else "held_out",
        )
        for i in range(train + held_out)
    ]


def some_comparisons(train: int, held_out: int = 0, labelers: int = 1) -> list[Comparison]:
    """Return rankings of three answers each: the one that says "yes" is best, and the others tie."""
    return [
        Comparison(
            f"c{i}-{labeler}",
            ask(f"is it {WORDS[i % 10]} {i}"),
            (f"no {WORDS[i % 7]}", "yes" + "!" * (i % 3), f"hm {WORDS[i % 5]} it is"),
            ((1,), (0, 2)),
            labeler=f"labeler {labeler}",
            split="train" if i < train else "held_out",
        )
        for i in range(train + held_out)
        for labeler in range(labelers)
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


CLOCK = ("time", "tokens_per_second", "peak_memory_mb")


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return metrics without what depends on the machine and the moment."""
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


# Rollouts

PROMPTS = [Prompt(f"p{n}", ask("say " + "so " * (n % 3) + str(n))) for n in range(6)]
SAMPLING = {"max_new_tokens": 8, "temperature": 1.0}
OPTIM = {"learning_rate": 1e-2, "batch_size": 16, "schedule": "constant", "warmup_fraction": 0.0, "epsilon": 1e-5}


def options(judge: str, **more: Any) -> dict[str, Any]:
    """Return options of PPO or RLOO for a short run on the tiny model."""
    return {
        "reward_model": judge,
        "iterations": 12,
        "ppo_epochs": 2,
        "minibatches": 2,
        "kl_coefficient": 0.01,
        "missing_end_penalty": 0.0,
        "sampling": SAMPLING,
        "optim": OPTIM,
        **more,
    }


def save_judge(folder: Path, model: str, liked: str) -> str:
    """Save a reward model with a head for each letter of `liked`, and return its folder; no training is needed.

    A head's score is about the share of its letter in an answer, one that ended or one that was cut off: the heads are
    fitted to that on answers of drawn letters, by least squares.
    """
    head_count = {"options": {"heads": len(liked)}}
    config = parse_run({"run_id": "judge", "method": "reward", "model": model, "precision": "float32", **head_count})
    tokenizer = build_tokenizer()
    judge = reward_model.new_reward_model(config, CPU, tokenizer)
    draw = random.Random(1)
    letters = [*"abcdefgh" * 3, *string.printable[:94], *"\N{REPLACEMENT CHARACTER}" * 9]
    texts = ["".join(draw.choices(draw.sample(letters, 3), k=draw.randint(1, 8))) for _ in range(800)]
    ended = [draw.random() < 0.5 for _ in texts]
    answers = judge.encode(ask("say"), texts, 64, data.Truncation(), ended)
    shares = torch.tensor([[text.count(letter) / len(text) for letter in liked] for text in texts])
    with torch.no_grad():
        batch = tree.collate([answers], CPU.device, "rows")
        hidden = tree.hidden_states(judge.trunk, judge.classifier.config, batch)[batch.ends]
        hidden, shares = hidden - hidden.mean(dim=0), shares - shares.mean(dim=0)
        ridge = hidden.T @ hidden + torch.eye(hidden.shape[1])
        judge.classifier.score.weight.copy_(torch.linalg.solve(ridge, hidden.T @ shares).T)
        scores = judge(batch)
        judge.mean.copy_(scores.mean(dim=0))
        judge.std.copy_(scores.std(dim=0))
    reward_model.save_reward(judge, folder, 64)
    return str(folder)


def timeless(path: Path) -> list[dict[str, Any]]:
    """Return the metrics of a rollout method without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if not key.endswith("_seconds")}
        for row in without_clock(read_lines(path))
    ]


def assert_same(run_dir: Path, whole: Path) -> None:
    """Two runs ended alike, bit for bit."""
    assert timeless(run_dir / "metrics.jsonl") == timeless(whole / "metrics.jsonl")
    assert (run_dir / "rollouts.jsonl").read_bytes() == (whole / "rollouts.jsonl").read_bytes()
    for path in (whole / "final").iterdir():
        assert file_sha256(run_dir / "final" / path.name) == file_sha256(path), path.name


class StopAfter(StopSignal):
    """Asks to stop once so many iterations are written."""

    def __init__(self, run_dir: Path, lines: int) -> None:
        self.path, self.lines = run_dir / "metrics.jsonl", lines

    @property
    def requested(self) -> bool:  # type: ignore[override]
        return self.path.exists() and len(read_lines(self.path)) >= self.lines


# Processes of their own, forked from one that has imported everything: imports are most of what a short run takes.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([f"trainer.{method}" for method in ("sft", "reward", "dpo", "kto", "ppo", "rloo")])


def train(method: str, run_dir: str, threads: int = 1) -> None:
    """Be the trainer's command, with so many threads of torch; for a process that was forked."""
    torch.set_num_threads(threads)
    sys.exit(main([method, "--run", run_dir]))


def interrupt(run_dir: Path, method: str, number: signal.Signals, reached: Callable[[], bool]) -> int:
    """Train in a process of its own, send it the signal once `reached` says so, and return its exit code."""
    process = FORKS.Process(target=train, args=(method, str(run_dir), torch.get_num_threads()))
    process.start()
    while not reached():
        assert process.exitcode is None
        time.sleep(0.005)  # a file of another process gives no event to wait for
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def kill_after(run_dir: Path, method: str, lines: int) -> None:
    """Train in a process of its own and kill it outright once it has written so many lines more."""
    metrics = run_dir / "metrics.jsonl"
    wanted = lines + (len(read_lines(metrics)) if metrics.exists() else 0)
    code = interrupt(
        run_dir, method, signal.SIGKILL, lambda: metrics.exists() and metrics.read_text().count("\n") >= wanted
    )
    assert code == -signal.SIGKILL
