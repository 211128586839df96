"""The rows of a run directory's files, and the only code that reads them. Standard library only.

    data/prompts.jsonl          {"id", "messages": [{"role", "content"}, …], "split"}
    data/demonstrations.jsonl   {"id", "messages", "completion", "weight", "split"}
    data/comparisons.jsonl      {"id", "messages", "completions": […], "ended": [true, false, true],
                                 "ranking": [[0], [2, 1]], "strengths": [2], "acceptable": 1,
                                 "judgements": [{"helpful": 6}, {}, {}], "weight", "labeler", "split"}
    samples.jsonl               {"policy", "prompt_id", "index", "text", "tokens", "finish_reason", "reward", "kl",
                                 "reward_std"}
    scores.jsonl                {"id", "scores": [0.3, -1.2], "information", "spread", "margin"}

`ranking` lists tie groups of indexes into `completions`, best first. Answers that it leaves out stand below all that it
names, in no order (partial ranking). `strengths` says for each pair of neighbouring groups how much better the first is
(1 slightly, 2 clearly, 3 much; null where nobody said), `acceptable` how many of the first groups are acceptable (null
where nobody said): two tied answers with 1 are both good, with 0 both bad. `judgements` says of each completion what it
got on each criterion, a number or yes or no, of which more is more of it; a criterion that is left out was not judged.
`ended` says of each completion whether it ended by itself, rather than at a limit of its length; left out, all did.
The split of a prompt goes by a hash of its messages, never of the row, so that no prompt is on both sides.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.jsonl import RecordError, canonical, line_at, read_jsonl, scan_jsonl

Split = Literal["train", "held_out"]
ROLES = ("system", "user", "assistant")

EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 3
EXIT_DIVERGED = 4
EXIT_NO_SPACE = 5


class DivergedError(RuntimeError):
    """A run found itself wrong: its loss is no number any more, or what it trains is not what it measured.

    It ends with `EXIT_DIVERGED`: the same run again would end the same way.
    """


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends on the user's turn."""

    id: str
    messages: tuple[Message, ...]
    split: Split = "train"


@dataclass(frozen=True)
class Demonstration:
    """The ideal answer to a prompt, written by a labeler."""

    id: str
    messages: tuple[Message, ...]
    completion: str
    weight: float = 1.0
    split: Split = "train"


@dataclass(frozen=True)
class Comparison:
    """One labeler's ranking of K completions of one prompt, as given: tie groups, best first.

    `strengths` (one for each pair of neighbouring groups), `acceptable`, `judgements` and `ended` are as in the text of
    the module.
    """

    id: str
    messages: tuple[Message, ...]
    completions: tuple[str, ...]
    ranking: tuple[tuple[int, ...], ...]
    weight: float = 1.0
    labeler: str = ""
    split: Split = "train"
    strengths: tuple[int | None, ...] | None = None
    acceptable: int | None = None
    judgements: tuple[dict[str, float], ...] = ()  # one a completion, or none at all
    ended: tuple[bool, ...] = ()  # one a completion, or none at all where all ended

    def levels(self, criterion: str) -> list[tuple[int, ...]]:
        """Return groups of completions that got the same on a criterion, the most first, without the unjudged."""
        found: dict[float, list[int]] = {}
        for index, judged in enumerate(self.judgements):
            if criterion in judged:
                found.setdefault(judged[criterion], []).append(index)
        return [tuple(found[value]) for value in sorted(found, reverse=True)]

    def pairs(self) -> list[tuple[int, int]]:
        """Return every (better, worse) pair of indexes that the ranking implies; ties and the unranked give none."""
        named = {index for group in self.ranking for index in group}
        unranked = tuple(index for index in range(len(self.completions)) if index not in named)
        groups = (*self.ranking, unranked)
        return [
            (better, worse)
            for rank, group in enumerate(self.ranking)
            for better in group
            for lower in groups[rank + 1 :]
            for worse in lower
        ]


@dataclass(frozen=True)
class Sample:
    """One sampled answer. `tokens` counts it with its end token; `reward` and `kl` (nats) only where measured.

    `reward_std` is how far the heads of the reward model's ensemble part over it.
    """

    policy: str
    prompt_id: str
    index: int
    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    reward: float | None = None
    kl: float | None = None
    reward_std: float | None = None


@dataclass(frozen=True)
class Score:
    """What a reward model with several heads thinks of a task's answers, in raw scores, and how sure it is.

    Over the pairs of answers: `information` is what a labeler's choice would tell about the heads (nats), `spread` the
    heads' standard deviation of the difference, `margin` the size of the difference by all heads together.
    """

    id: str
    scores: tuple[float, ...]
    information: float
    spread: float
    margin: float


def split_of(messages: tuple[Message, ...], held_out_fraction: float) -> Split:
    """Return the split of a prompt from the hash of its messages: the same prompt is always on the same side."""
    digest = hashlib.sha256(canonical([asdict(message) for message in messages])).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") < held_out_fraction * 2**64 else "train"


def read_prompts(path: Path) -> list[Prompt]:
    """Read `prompts.jsonl`."""
    return [row for _, row in scan_prompts(path)]


def scan_prompts(path: Path) -> Iterator[tuple[int, Prompt]]:
    """Yield what `read_prompts` reads, a line at a time, each with the byte at which its line begins."""
    return ((offset, _prompt(row, path, n)) for n, offset, row in scan_jsonl(path))


def prompt_at(path: Path, offset: int) -> Prompt:
    """Return the prompt whose line begins at this byte, as `scan_prompts` has told."""
    return _prompt(line_at(path, offset), path, 0)


def _prompt(row: dict[str, Any], path: Path, n: int) -> Prompt:
    return Prompt(_text(row, "id", path, n), _messages(row, path, n), _split(row, path, n))


def read_demonstrations(path: Path) -> list[Demonstration]:
    """Read `demonstrations.jsonl`; an empty completion is an error."""
    return [row for _, row in scan_demonstrations(path)]


def scan_demonstrations(path: Path) -> Iterator[tuple[int, Demonstration]]:
    """Yield what `read_demonstrations` reads, a line at a time, each with the byte at which its line begins."""
    return ((offset, _demonstration(row, path, n)) for n, offset, row in scan_jsonl(path))


def demonstration_at(path: Path, offset: int) -> Demonstration:
    """Return the demonstration whose line begins at this byte, as `scan_demonstrations` has told."""
    return _demonstration(line_at(path, offset), path, 0)


def _demonstration(row: dict[str, Any], path: Path, n: int) -> Demonstration:
    completion = _text(row, "completion", path, n)
    if not completion.strip():
        raise RecordError(f"{path.name} line {n}: the demonstration is empty.")
    return Demonstration(
        _text(row, "id", path, n), _messages(row, path, n), completion, _weight(row, path, n), _split(row, path, n)
    )


def read_comparisons(path: Path) -> list[Comparison]:
    """Read `comparisons.jsonl`; a ranking that repeats an answer or names one that is not there is an error."""
    return [row for _, row in scan_comparisons(path)]


def scan_comparisons(path: Path) -> Iterator[tuple[int, Comparison]]:
    """Yield what `read_comparisons` reads, a line at a time, each with the byte at which its line begins."""
    return ((offset, _comparison(row, path, n)) for n, offset, row in scan_jsonl(path))


def comparison_at(path: Path, offset: int) -> Comparison:
    """Return the comparison whose line begins at this byte, as `scan_comparisons` has told."""
    return _comparison(line_at(path, offset), path, 0)


def _comparison(row: dict[str, Any], path: Path, n: int) -> Comparison:
    completions = row.get("completions")
    if not isinstance(completions, list) or not all(isinstance(item, str) for item in completions):
        raise RecordError(f"{path.name} line {n}: completions must be a list of strings.")
    ranking = row.get("ranking")
    if not isinstance(ranking, list) or not all(isinstance(group, list) and group for group in ranking):
        raise RecordError(f"{path.name} line {n}: ranking must be a list of non-empty lists.")
    ranked = [index for group in ranking for index in group]
    if any(isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < len(completions) for i in ranked):
        raise RecordError(f"{path.name} line {n}: ranking names an answer that is not there.")
    if len(set(ranked)) != len(ranked):
        raise RecordError(f"{path.name} line {n}: ranking repeats an answer.")
    return Comparison(
        _text(row, "id", path, n),
        _messages(row, path, n),
        tuple(completions),
        tuple(tuple(group) for group in ranking),
        _weight(row, path, n),
        str(row.get("labeler", "")),
        _split(row, path, n),
        _strengths(row, len(ranking), path, n),
        _acceptable(row, len(ranking), path, n),
        _judgements(row, len(completions), path, n),
        _ended(row, len(completions), path, n),
    )


def read_samples(path: Path) -> list[Sample]:
    """Read `samples.jsonl`."""
    rows = []
    for n, row in read_jsonl(path):
        try:
            rows.append(Sample(**row))
        except TypeError as error:
            raise RecordError(f"{path.name} line {n}: {error}.") from None
    return rows


def read_scores(path: Path) -> list[Score]:
    """Read `scores.jsonl`."""
    rows = []
    for n, row in read_jsonl(path):
        try:
            score = Score(**{**row, "scores": tuple(row["scores"])})
        except (KeyError, TypeError) as error:
            raise RecordError(f"{path.name} line {n}: {error}.") from None
        if not all(math.isfinite(value) for value in (score.information, score.spread, score.margin)):
            raise RecordError(f"{path.name} line {n}: a score is not finite.")
        rows.append(score)
    return rows


def _text(row: dict[str, Any], key: str, path: Path, number: int) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RecordError(f"{path.name} line {number}: {key} must be a string.")
    return value


def _weight(row: dict[str, Any], path: Path, number: int) -> float:
    value = row.get("weight", 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RecordError(f"{path.name} line {number}: weight must be a number.")
    if value < 0:
        raise RecordError(f"{path.name} line {number}: weight must not be negative.")
    return float(value)


def _strengths(row: dict[str, Any], groups: int, path: Path, number: int) -> tuple[int | None, ...] | None:
    value = row.get("strengths")
    if value is None:
        return None
    if not isinstance(value, list) or any(item not in (None, 1, 2, 3) or item is True for item in value):
        raise RecordError(f"{path.name} line {number}: strengths must be a list of 1, 2, 3 or null.")
    if len(value) != groups - 1:
        raise RecordError(f"{path.name} line {number}: strengths must be one fewer than the groups of the ranking.")
    return tuple(value)


def _acceptable(row: dict[str, Any], groups: int, path: Path, number: int) -> int | None:
    value = row.get("acceptable")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= groups:
        raise RecordError(f"{path.name} line {number}: acceptable must be a number of groups of the ranking.")
    return value


def _judgements(row: dict[str, Any], completions: int, path: Path, number: int) -> tuple[dict[str, float], ...]:
    value = row.get("judgements")
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(judged, dict) for judged in value):
        raise RecordError(f"{path.name} line {number}: judgements must be a list of objects.")
    if len(value) != completions:
        raise RecordError(f"{path.name} line {number}: judgements must be one for each completion, {{}} where none is.")
    answers = [answer for judged in value for answer in judged.values()]
    if not all(isinstance(answer, (int, float)) and math.isfinite(answer) for answer in answers):
        raise RecordError(f"{path.name} line {number}: a judgement must be a number, true or false.")
    return tuple({criterion: float(answer) for criterion, answer in judged.items()} for judged in value)


def _ended(row: dict[str, Any], completions: int, path: Path, number: int) -> tuple[bool, ...]:
    value = row.get("ended")
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, bool) for item in value):
        raise RecordError(f"{path.name} line {number}: ended must be a list of true or false.")
    if len(value) != completions:
        raise RecordError(f"{path.name} line {number}: ended must be one for each completion.")
    return () if all(value) else tuple(value)


def _split(row: dict[str, Any], path: Path, number: int) -> Split:
    value = row.get("split", "train")
    if value not in ("train", "held_out"):
        raise RecordError(f"{path.name} line {number}: split must be train or held_out, not {value!r}.")
    return value  # type: ignore[no-any-return]  # one of the two literals, as just checked


def _messages(row: dict[str, Any], path: Path, number: int) -> tuple[Message, ...]:
    value = row.get("messages")
    if not isinstance(value, list) or not value:
        raise RecordError(f"{path.name} line {number}: messages must be a non-empty list.")
    messages = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("content"), str) or item.get("role") not in ROLES:
            raise RecordError(
                f"{path.name} line {number}: each message needs a role ({', '.join(ROLES)}) and a text as content."
            )
        messages.append(Message(item["role"], item["content"]))
    if messages[-1].role != "user":
        raise RecordError(f"{path.name} line {number}: a prompt ends on the user's turn.")
    return tuple(messages)
