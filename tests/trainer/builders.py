"""What trainer tests are built from: a tokenizer, data rows, and readers of a run's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainer.records import Comparison, Demonstration, Message

SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ 'assistant' if message['role'] == 'assistant' else 'user' }}>"
    "{{ message['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
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
