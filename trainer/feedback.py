"""Preferences of a model that judges by a constitution, as soft labels from its log-probabilities.

    python -m trainer feedback --run DIR

Reads data/comparisons.jsonl, of which the answers are judged, and data/constitution.jsonl. Every two answers to a
prompt are shown in both orders under a drawn principle; the probability of a preference is that of the letter the judge
would say next, averaged over the orders (Bai et al. 2022, Constitutional AI, 4.1). Leaves feedback.jsonl, and
comparisons.jsonl with each preference twice, weighted by its probability, so that every loss on rankings takes it as a
soft label. The labelers' own rankings are never touched: the report says how far the judge agrees with them.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from trainer import checkpoint, modeling, report
from trainer.config import ConfigError, FeedbackOptions, RunConfig
from trainer.constitution import Principle, Verdict, draw, keep_whole_batches, read_principles
from trainer.data import prompt_ids
from trainer.device import setup
from trainer.intervals import ratio_interval
from trainer.jsonl import append_jsonl, read_jsonl, write_jsonl
from trainer.layout import Layout
from trainer.metrics import MetricsFile
from trainer.records import EXIT_DONE, EXIT_STOPPED, Comparison, Message, read_comparisons
from trainer.stop import StopSignal
from trainer.tree import Tree

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LETTERS = ("A", "B")
LEAD = "The better answer is "
BINS = 10


@dataclass(frozen=True)
class Question:
    """Two answers of one comparison and the principle they are to be judged by."""

    comparison: Comparison
    first: int
    second: int
    principle: Principle


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Judge, and return the exit code."""
    options = cast("FeedbackOptions", config.options)

    # 1. What is to be judged, the judge, and how far an earlier attempt came.
    comparisons = read_comparisons(run_dir / "data" / "comparisons.jsonl")
    principles = read_principles(run_dir / "data" / "constitution.jsonl")
    asked = questions(comparisons, principles, options.principles_per_pair, config.seed)
    if not asked:
        raise ConfigError("data/comparisons.jsonl has no two different answers to one prompt.")
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    check_room(tokenizer, asked, config)
    judge = modeling.load_policy(config.model, device.dtype, device.device)
    layout = modeling.choose_layout(judge, options.tokens_per_forward, device)
    path = run_dir / "feedback.jsonl"
    start = keep_whole_batches(path, asked, options.batch_size)
    checkpoint.cut_metrics(run_dir, start)

    # 2. Judge.
    with MetricsFile(run_dir) as metrics:
        for begin in range(start, len(asked), options.batch_size):
            if stop.requested:
                return EXIT_STOPPED
            started = time.perf_counter()
            part = asked[begin : begin + options.batch_size]
            verdicts = decide(judge, tokenizer, part, config, layout)
            append_jsonl(path, [asdict(row) for row in verdicts])
            metrics.write(
                begin + len(part),
                total_steps=len(asked),
                decided=sum(agree(row) for row in verdicts) / len(verdicts),
                pairs_per_second=round(len(part) / (time.perf_counter() - started), 2),
                peak_memory_mb=device.peak_memory_mb(),
            )

    # 3. Write what can be learned from, and how it stands to what people said.
    found = [Verdict(**row) for _, row in read_jsonl(path)]
    write_jsonl(
        run_dir / "comparisons.jsonl", [row for pair in zip(asked, found, strict=True) for row in soft_label(*pair)]
    )
    summary: dict[str, object] = {
        "pairs": len(found),
        "principles": len(principles),
        # A judge that looks at the place alone changes its mind with the order every time.
        "decided_in_both_orders": sum(map(agree, found)) / len(found),
        "first_place_preferred_by": sum(row.forward - row.swapped for row in found) / len(found),
    }
    people = against_people(comparisons, asked, found, config.seed)
    if people:
        low, high = cast("list[float]", people["agreement_interval"])
        said = f"agrees with the labelers in {people['agreement']:.1%} (95 % interval {low:.1%} to {high:.1%})"
    else:
        said = "was not compared with labelers, who ranked none of these answers"
    report.write(run_dir, config, {"headline": f"On {len(found)} pairs the judge {said}.", **summary, **people})
    return EXIT_DONE


def questions(
    comparisons: Sequence[Comparison], principles: Sequence[Principle], each: int, seed: int
) -> list[Question]:
    """Return every two different answers to a prompt, once however many labelers ranked them, with drawn principles."""
    if each > len(principles):
        raise ConfigError(f"options.principles_per_pair is {each}, more than the constitution has ({len(principles)}).")
    seen: set[tuple[tuple[Message, ...], tuple[str, ...]]] = set()
    found = []
    for row in comparisons:
        if (row.messages, row.completions) in seen:
            continue
        seen.add((row.messages, row.completions))
        for first in range(len(row.completions)):
            for second in range(first + 1, len(row.completions)):
                if row.completions[first] != row.completions[second]:
                    drawn = draw(principles, each, seed, row.id, first, second)
                    found += [Question(row, first, second, principle) for principle in drawn]
    return found


def ask(question: Question, *, swapped: bool, special: Sequence[str], seed: int) -> list[Message]:
    """Return what the judge is asked. What it judges lies between marks that no answer can know, and holds no tokens of
    the chat template: an answer must not be able to speak for the judge or the user.
    """
    row = question.comparison
    mark = hashlib.sha256(f"{seed}/{row.id}/{question.first}/{question.second}".encode()).hexdigest()[:8]
    indexes = (question.second, question.first) if swapped else (question.first, question.second)

    def clean(text: str) -> str:
        for token in special:
            text = text.replace(token, " ")
        return text

    talk = "\n\n".join(f"{message.role}: {clean(message.content)}" for message in row.messages)
    shown = "\n\n".join(
        f"[answer {letter} {mark}]\n{clean(row.completions[index])}\n[end of answer {letter} {mark}]"
        for letter, index in zip(LETTERS, indexes, strict=True)
    )
    text = (
        f"[conversation {mark}]\n{talk}\n[end of conversation {mark}]\n\n{shown}\n\n"
        f"{question.principle.preference}\nSay A or B."
    )
    return [Message("user", text)]


def encoded(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """Return the ids of a question up to where the judge would say a letter."""
    return prompt_ids(tokenizer, messages) + list(tokenizer.encode(LEAD.rstrip(), add_special_tokens=False))


def check_room(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Question], config: RunConfig) -> None:
    """Refuse a comparison that does not fit `max_length`: a judge that saw half of it would judge something else."""
    for question in asked:
        length = len(encoded(tokenizer, ask(question, swapped=False, special=[], seed=config.seed)))
        if length + 8 > config.max_length:
            raise ConfigError(
                f"Comparison {question.comparison.id} has {length} tokens with the judge's question, more than "
                f"max_length {config.max_length} leaves room for. Raise max_length or leave it out."
            )


def decide(
    judge: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Question],
    config: RunConfig,
    layout: Layout,
) -> list[Verdict]:
    """Return the verdicts on some questions; both orders of each are read, and each question once for both letters."""
    options = cast("FeedbackOptions", config.options)
    special = list(tokenizer.all_special_tokens)
    letters = [tokenizer.encode(f" {letter}", add_special_tokens=False) for letter in LETTERS]
    trees = [
        Tree(encoded(tokenizer, ask(one, swapped=swapped, special=special, seed=config.seed)), letters)
        for one in asked
        for swapped in (False, True)
    ]
    firsts = layout.repeat(partial(letter_probabilities, judge, trees, layout))
    verdicts = []
    for number, one in enumerate(asked):
        forward, swapped = firsts[2 * number], 1 - firsts[2 * number + 1]
        mean = min(max((forward + swapped) / 2, options.clamp), 1 - options.clamp)
        verdicts.append(Verdict(one.comparison.id, one.first, one.second, one.principle.id, forward, swapped, mean))
    return verdicts


@torch.no_grad()
def letter_probabilities(judge: PreTrainedModel, trees: Sequence[Tree], layout: Layout) -> list[float]:
    """Return for each question the probability of its first letter among the two."""
    found = [math.nan] * len(trees)
    for part, batch in layout.batches(trees):
        with layout.device.autocast():
            logps = batch.sum_by_completion(modeling.completion_logps(judge, batch)).cpu()
        for index, pair in zip(part, logps.view(-1, 2).softmax(dim=1)[:, 0].tolist(), strict=True):
            found[index] = pair
    return found


def agree(verdict: Verdict) -> bool:
    """Return whether both orders prefer the same answer."""
    return (verdict.forward > 0.5) == (verdict.swapped > 0.5)


def soft_label(question: Question, verdict: Verdict) -> list[Comparison]:
    """Return a verdict as two rankings of the pair, weighted by their probabilities, of the labeler `ai:principle`."""
    row = question.comparison
    texts = (row.completions[verdict.first], row.completions[verdict.second])
    ended = (row.ended[verdict.first], row.ended[verdict.second]) if row.ended else ()
    name = f"{row.id}/{verdict.first}-{verdict.second}/{verdict.principle}"
    return [
        Comparison(
            f"{name}/{kind}",
            row.messages,
            texts,
            ranking,
            weight,
            f"ai:{verdict.principle}",
            row.split,
            ended=() if all(ended) else ended,
        )
        for kind, ranking, weight in (
            ("first", ((0,), (1,)), verdict.probability),
            ("second", ((1,), (0,)), 1 - verdict.probability),
        )
    ]


def against_people(
    comparisons: Sequence[Comparison], asked: Sequence[Question], verdicts: Sequence[Verdict], seed: int
) -> dict[str, object]:
    """Return the judge's agreement with the labelers' preferences, in all and by principle, and its calibration error.

    A labeler's weight counts; pairs that a labeler found equal do not. Nothing is returned where no one ranked.
    """
    said: dict[tuple[tuple[Message, ...], tuple[str, ...]], list[tuple[int, int, float]]] = {}
    for row in comparisons:
        pairs = [(better, worse, row.weight) for better, worse in row.pairs() if row.weight > 0]
        said.setdefault((row.messages, row.completions), []).extend(pairs)
    hits: dict[str, dict[tuple[Message, ...], list[float]]] = {}
    bins = [[0.0, 0.0, 0.0] for _ in range(BINS)]
    for question, verdict in zip(asked, verdicts, strict=True):
        row = question.comparison
        for better, worse, weight in said[row.messages, row.completions]:
            if {better, worse} != {verdict.first, verdict.second}:
                continue
            of_better = verdict.probability if better == verdict.first else 1 - verdict.probability
            hit = 0.5 if of_better == 0.5 else float(of_better > 0.5)
            for name in ("", verdict.principle):
                sums = hits.setdefault(name, {}).setdefault(row.messages, [0.0, 0.0])
                sums[0] += weight * hit
                sums[1] += weight
            sure = max(of_better, 1 - of_better)
            place = bins[min(int((sure - 0.5) * 2 * BINS), BINS - 1)]
            for index, value in enumerate((1.0, sure, hit)):
                place[index] += weight * value
    if not hits:
        return {}

    def rate(name: str) -> tuple[float, list[float], float]:
        right, counted = (list(values) for values in zip(*hits[name].values(), strict=True))
        return sum(right) / sum(counted), list(ratio_interval(right, counted, seed)), sum(counted)

    agreement, interval, weight = rate("")
    by_principle = {}
    for name in sorted(set(hits) - {""}):
        value, between, of = rate(name)
        by_principle[name] = {"agreement": value, "agreement_interval": between, "pairs": of}
    total = sum(count for count, _, _ in bins)
    return {
        "agreement": agreement,
        "agreement_interval": interval,
        "pairs_ranked_by_labelers": weight,
        "calibration_error": sum(abs(sure - hit) for _, sure, hit in bins) / total,
        "agreement_by_principle": by_principle,
    }
