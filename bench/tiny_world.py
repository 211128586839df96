"""A small world for experiments: a language of 40 words, people with a known taste, models that learn both on a CPU.

A text is a walk over a fixed graph of words. What people like, the gold score, is known and saturates: some words
please, but only twice each; saying a word twice in a row and rambling displease. They err: the better of two answers is
preferred with the probability of Bradley and Terry. Nothing here says what a large model does; it says whether an
effect that papers report can be seen in the same code at all, with many seeds in minutes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.__main__ import main as trainer
from trainer.jsonl import write_jsonl
from trainer.manifest import write_manifest
from trainer.records import EXIT_DONE, Comparison, Demonstration, Message, Prompt, Sample, read_samples

SPECIAL = ("<pad>", "<end>", "<user>", "<assistant>")
ONSETS, RIMES = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "s"), ("a", "e", "i", "o")
WORDS = tuple(onset + rime for onset in ONSETS for rime in RIMES)
SUCCESSORS = 6  # words that may follow a word
ENDING = 0.1  # of ending after each word, once there are three
MAX_WORDS = 24
TEMPLATE = (
    "{% for message in messages %}{{ '<assistant>' if message['role'] == 'assistant' else '<user>' }} "
    "{{ message['content'] }} <end> {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


class World:
    """The language and the taste of one seed."""

    def __init__(self, seed: int) -> None:
        random_ = random.Random(seed)
        self.follows = {word: random_.sample(WORDS, SUCCESSORS) for word in WORDS}
        self.pleasure = {word: random_.gauss(0, 0.6) for word in WORDS}

    def say(self, random_: random.Random, start: str) -> list[str]:
        """Return a text of 3 to `MAX_WORDS` words that goes on from `start`; earlier successors are likelier."""
        words = [start]
        while len(words) <= MAX_WORDS and (len(words) <= 3 or random_.random() > ENDING):
            words.append(random_.choices(self.follows[words[-1]], weights=range(SUCCESSORS, 0, -1))[0])
        return words[1:]

    def prompt(self, random_: random.Random) -> str:
        """Return a question of four words."""
        first = random_.choice(WORDS)
        return " ".join([first, *self.say(random_, first)[:3]])

    def gold(self, text: str) -> float:
        """Return how much people like an answer."""
        words = [word for word in text.split() if word in self.pleasure]
        pleased = sum(self.pleasure[word] * min(count, 2) for word, count in Counter(words).items())
        repeated = sum(a == b for a, b in itertools.pairwise(words))
        rambling = max(0, len(words) - 12)
        return pleased - 0.5 * repeated - 0.15 * rambling

    def rank(self, random_: random.Random, texts: Sequence[str], noise: float = 1.0) -> tuple[tuple[int, ...], ...]:
        """Return a ranking, best first, by a Plackett-Luce draw of the gold scores over `noise` (Gumbel's trick)."""
        keys = [self.gold(text) / noise - math.log(-math.log(random_.random())) for text in texts]
        return tuple((index,) for index in sorted(range(len(texts)), key=lambda index: -keys[index]))


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the language: one token a word."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", chat_template=TEMPLATE)


def untrained(folder: Path, seed: int, width: int = 64, layers: int = 2) -> Path:
    """Save a random model of the language."""
    words = tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def ask(text: str) -> tuple[Message, ...]:
    """Return a conversation of one question."""
    return (Message("user", text),)


def prompts(world: World, count: int, seed: int, *, split: str = "train") -> list[Prompt]:
    """Return `count` prompts."""
    random_ = random.Random(f"prompts/{split}/{seed}")
    return [Prompt(f"{split}{n}", ask(world.prompt(random_)), split) for n in range(count)]  # type: ignore[arg-type]


def demonstrations(world: World, count: int, seed: int) -> list[Demonstration]:
    """Return texts of the language, a tenth of them held out."""
    random_ = random.Random(f"demonstrations/{seed}")
    rows = []
    for n in range(count):
        question = world.prompt(random_)
        answer = " ".join(world.say(random_, question.split()[-1]))
        rows.append(Demonstration(f"d{n}", ask(question), answer, split="held_out" if n % 10 == 0 else "train"))
    return rows


def comparisons(
    world: World, answers: Sequence[tuple[Prompt, Sequence[str]]], seed: int, noise: float = 1.0
) -> list[Comparison]:
    """Return one labeler's ranking of the answers to each prompt."""
    random_ = random.Random(f"rankings/{seed}")
    return [
        Comparison(
            prompt.id, prompt.messages, tuple(texts), world.rank(random_, texts, noise), labeler="a", split=prompt.split
        )
        for prompt, texts in answers
    ]


def run(
    folder: Path, method: str, model: Path, options: dict[str, Any], data: dict[str, list[Any]], **keys: Any
) -> Path:
    """Run the trainer on `data` in a new folder, and return it; raise `RuntimeError` where it does not end well."""
    (folder / "data").mkdir(parents=True)
    config = {
        "run_id": folder.name,
        "method": method,
        "model": str(model),
        "precision": "float32",
        "max_length": 64,
        "checkpoint_steps": 100_000,
        "options": options,
        **keys,
    }
    (folder / "run.json").write_text(json.dumps(config), encoding="utf-8")
    for name, rows in data.items():
        write_jsonl(folder / "data" / f"{name}.jsonl", rows)
    write_manifest(folder / "data")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = trainer([method, "--run", str(folder)])
    if code != EXIT_DONE:
        raise RuntimeError(f"{method} in {folder} ended with {code}: {said.getvalue()[-600:]}")
    return folder


def answers(folder: Path, model: Path, asked: list[Prompt], each: int, seed: int) -> list[tuple[Prompt, list[str]]]:
    """Return `each` answers of a model to every prompt, drawn from its whole distribution."""
    sampling = {"temperature": 1.0, "max_new_tokens": MAX_WORDS + 8, "batch_size": 256}
    options = {"samples_per_prompt": each, "sampling": sampling}
    ended = run(folder, "sample", model, options, {"prompts": asked}, seed=seed)
    by_prompt: dict[str, list[str]] = {}
    for sample in read_samples(ended / "samples.jsonl"):
        by_prompt.setdefault(sample.prompt_id, []).append(sample.text)
    return [(prompt, by_prompt[prompt.id]) for prompt in asked]


def speaker(folder: Path, world: World, seed: int) -> Path:
    """Train a model of the language, and return its folder: the policy that everything starts from."""
    optim = {"learning_rate": 3e-3, "batch_size": 64, "epochs": 3}
    data = {"demonstrations": demonstrations(world, 6000, seed)}
    return (
        run(folder / "sft", "sft", untrained(folder / "untrained", seed), {"optim": optim}, data, seed=seed) / "final"
    )


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and its standard error."""
    mean = sum(values) / len(values)
    spread = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return mean, math.sqrt(spread / len(values))


def samples_of(folder: Path) -> Iterator[Sample]:
    """Yield the answers of an evaluation."""
    yield from read_samples(folder / "samples.jsonl")
