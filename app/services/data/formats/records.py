"""The one shape between all others: a judgement of answers to a prompt, the pairs in it, and what gets lost of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

from trainer.records import Message

AnswerSource = Literal["model", "human", "edit"]
Judge = Literal["human", "simulated", "ai"]
Ties = Literal["drop", "both", "margin0"]
Row = dict[str, Any]

STRONGEST = 3


@dataclass(frozen=True)
class Answer:
    """One of the judged answers: its text, what made it, and under which name that is known."""

    text: str
    source: AnswerSource = "model"
    model: str = ""


@dataclass(frozen=True)
class Record:
    """One judgement. `ranking` lists tie groups of places in `answers`, best first; the rest stands below, in no order.

    `strengths` says for each pair of neighbouring groups how much better the first is (1 slightly, 2 clearly, 3 much,
    None where nobody said), `acceptable` how many of the first groups are acceptable. `judgements` holds answers to
    criteria by place. `judge` says what judged, `labeler` who. Records of one prompt share a `group`.
    """

    messages: tuple[Message, ...]
    answers: tuple[Answer, ...]
    ranking: tuple[tuple[int, ...], ...]
    strengths: tuple[int | None, ...] | None = None
    acceptable: int | None = None
    judgements: dict[int, dict[str, int | bool | str]] = field(default_factory=dict)
    reason: str = ""
    labeler: str = ""
    judge: Judge = "human"
    id: str = field(default="", compare=False)
    group: str = field(default="", compare=False)

    def unranked(self) -> tuple[int, ...]:
        """Return the places that no group names."""
        named = {place for group in self.ranking for place in group}
        return tuple(place for place in range(len(self.answers)) if place not in named)

    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Return the tie groups, and the unranked answers (which are no tie) as one group below them, if any."""
        rest = self.unranked()
        return (*self.ranking, rest) if rest else self.ranking

    def steps(self) -> list[int]:
        """Return the strength of each boundary between `groups`, 0 where nobody said."""
        said = [strength or 0 for strength in self.strengths or ()]
        return said + [0] * (max(0, len(self.groups()) - 1) - len(said))


@dataclass(frozen=True)
class Conversation:
    """A prompt (`completion` is None), or a prompt with an answer that a person wrote as an example of a good one.

    `answers` are answers to a prompt that nobody has judged.
    """

    messages: tuple[Message, ...]
    completion: str | None = None
    labeler: str = ""
    judge: Judge = "human"
    answers: tuple[Answer, ...] = ()
    id: str = field(default="", compare=False)
    group: str = field(default="", compare=False)


@dataclass(frozen=True)
class Pair:
    """Two answers of a record: `better` and `worse`, or a tie of the two.

    `strength` is 0 where nobody said; over several ranks it adds up, as in our trainer. `acceptable` is as in `Record`.
    """

    record: Record
    better: int
    worse: int
    strength: int = 0
    tie: bool = False
    acceptable: int | None = None

    @property
    def chosen(self) -> Answer:
        """The better answer; of a tie the first."""
        return self.record.answers[self.better]

    @property
    def rejected(self) -> Answer:
        """The worse answer; of a tie the second."""
        return self.record.answers[self.worse]


class CannotCarryError(ValueError):
    """A format has no way to hold this record; the text is the end of “… with” and is counted in the loss report."""


class LeftOutError(ValueError):
    """A line is as its format says, but holds nothing that can be taken; the text says why. The rest is taken."""


def pairs_of(record: Record) -> Iterator[Pair]:
    """Yield every two ranked answers, ties too; of two unranked ones nothing is known."""
    ranks = {place: rank for rank, group in enumerate(record.groups()) for place in group}
    unranked, steps, line = set(record.unranked()), record.steps(), record.acceptable
    for first, second in combinations(sorted(ranks, key=lambda place: (ranks[place], place)), 2):
        high, low = ranks[first], ranks[second]
        if high == low:
            if first not in unranked:
                yield Pair(record, first, second, 0, tie=True, acceptable=None if line is None else int(high < line))
        else:
            acceptable = None if line is None else (high < line) + (low < line)
            yield Pair(record, first, second, sum(steps[high:low]), acceptable=acceptable)


def pair_record(pair: Pair) -> Record:
    """Return a pair as a judgement of its own. Strengths end at 3, so that a sum over several ranks is cut there."""
    record = pair.record
    judged = {
        new: record.judgements[old] for new, old in enumerate((pair.better, pair.worse)) if old in record.judgements
    }
    return replace(
        record,
        answers=(pair.chosen, pair.rejected),
        ranking=((0, 1),) if pair.tie else ((0,), (1,)),
        strengths=None if pair.tie or not pair.strength else (min(pair.strength, STRONGEST),),
        acceptable=pair.acceptable,
        judgements=judged,
    )


# What a record may hold beside the better and worse answers, in the words of the loss report: one, several.
WORDS = {
    "orders": ("order of two answers", "orders of two answers"),
    "ties": ("tie", "ties"),
    "strengths": ("strength", "strengths"),
    "lines": ("line of what is acceptable", "lines of what is acceptable"),
    "judgements": ("answer to a criterion", "answers to criteria"),
    "reasons": ("reason", "reasons"),
    "unranked": ("mark of an unranked answer", "marks of unranked answers"),
    "models": ("model name", "model names"),
    "sources": ("mark of an answer written by a person", "marks of answers written by people"),
    "labelers": ("labeler", "labelers"),
    "judges": ("mark of a judge that is no person", "marks of judges that are no people"),
}
ASPECTS = frozenset(WORDS)


def contents(record: Record) -> Counter[str]:
    """Count what a record holds, by aspect."""
    sizes = [len(group) for group in record.groups()]
    rest = len(record.unranked())
    return +Counter(
        orders=sum(sizes[high] * sizes[low] for high, low in combinations(range(len(sizes)), 2)),
        ties=sum(len(group) * (len(group) - 1) // 2 for group in record.ranking),
        strengths=sum(strength is not None for strength in record.strengths or ()),
        lines=record.acceptable is not None,
        judgements=sum(len(answers) for answers in record.judgements.values()),
        reasons=bool(record.reason),
        unranked=rest,
        models=sum(bool(answer.model) for answer in record.answers),
        sources=sum(answer.source != "model" for answer in record.answers),
        labelers=bool(record.labeler),
        judges=record.judge != "human",
    )


def stripped(record: Record, carried: frozenset[str]) -> Record:
    """Return the record without the aspects that are not carried; orders, ties and unranked answers stay."""
    answers = tuple(
        Answer(
            answer.text,
            answer.source if "sources" in carried else "model",
            answer.model if "models" in carried else "",
        )
        for answer in record.answers
    )
    return replace(
        record,
        answers=answers,
        strengths=record.strengths if "strengths" in carried else None,
        acceptable=record.acceptable if "lines" in carried else None,
        judgements=record.judgements if "judgements" in carried else {},
        reason=record.reason if "reasons" in carried else "",
        labeler=record.labeler if "labelers" in carried else "",
        judge=record.judge if "judges" in carried else "human",
    )


@dataclass
class Loss:
    """What an export could not carry, counted while it is written."""

    rankings: int = 0
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)

    def sentences(self) -> list[str]:
        """Return the report as a person reads it; empty when nothing was lost."""
        found = []
        counts = [f"{count:,} {WORDS[name][count != 1]}" for name in WORDS if (count := self.dropped[name])]
        if counts:
            verb = "was" if sum(self.dropped.values()) == 1 else "were"
            found.append(f"{_listed(counts)} {verb} dropped.")
        found += [
            f"{count:,} {'ranking' if count == 1 else 'rankings'} left out: {why}."
            for why, count in sorted(self.left_out.items())
        ]
        found += [f"{count:,} {what}." for what, count in sorted(self.noted.items())]
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the report for a manifest."""
        return {
            "dropped": {name: count for name, count in sorted(self.dropped.items()) if count},
            "left_out": dict(sorted(self.left_out.items())),
            "noted": dict(sorted(self.noted.items())),
            "sentences": self.sentences(),
        }


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
