"""What a snapshot's manifest says of its answers: who gave them, under which guidelines, and what they hold.

Of each row only its key is counted while files are written; the counts are put together at the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from app.services.projects import mixing
from app.services.projects.guidelines import IMPORTED_VERSION


class Answer(NamedTuple):
    """Who gave an answer of which kind, under which version, what judged, and the side of its prompt."""

    kind: str
    labeler: bytes
    version: bytes
    judge: bytes
    split: bytes


class Judgement(NamedTuple):
    """What a ranking holds: answers ranked, ties, strengths, where it comes from, its split if a line is drawn.

    `is_judged` says whether the labeler judged single answers by criteria, too, `is_cut` whether an answer never ended.
    """

    size: int
    has_ties: bool
    has_strengths: bool
    origin: bytes
    dataset: bytes
    line_on: bytes
    is_judged: bool
    is_cut: bool


class Tally:
    """Counts who answered, what judged, under which guidelines and where, and what the rankings hold."""

    def __init__(self) -> None:
        self.answers: Counter[Answer] = Counter()
        self.judgements: Counter[Judgement] = Counter()
        self.prompts: Counter[bytes] = Counter()
        self.brought: Counter[tuple[str, bytes]] = Counter()
        """Prompts and demonstrations that came from a dataset, by kind; of rankings the judgement says so."""
        self.weights: Counter[tuple[int, float]] = Counter()
        """How many rankings of a round weigh so much."""

    def rounds(self) -> dict[str, dict[str, float]]:
        """Return how many rankings each round brought and what they weigh together; nothing before the first refresh.

        A manifest without rounds stays as it was before there were any, and with it the snapshot's address.
        """
        if self.weights.keys() <= {(0, 1.0)}:
            return {}
        found: dict[int, Counter[float]] = defaultdict(Counter)
        for (number, weight), count in self.weights.items():
            found[number][weight] += count
        return {
            str(number): {
                "comparisons": counts.total(),
                "weight": round(sum(weight * count for weight, count in sorted(counts.items())), mixing.DIGITS),
            }
            for number, counts in sorted(found.items())
        }

    def by_split(self) -> dict[str, dict[str, int]]:
        """Return how many there are on each side, of every kind; `acceptable` counts the lines drawn, if any were."""
        found: dict[str, Counter[str]] = {"prompts": Counter(), "demonstrations": Counter(), "comparisons": Counter()}
        for split, count in self.prompts.items():
            found["prompts"][split.decode()] += count
        for answer, count in self.answers.items():
            found[answer.kind][answer.split.decode()] += count
        for judgement, count in self.judgements.items():
            if judgement.line_on:
                found.setdefault("acceptable", Counter())[judgement.line_on.decode()] += count
        return {name: dict(sorted(counts.items())) for name, counts in found.items()}

    def of_version(self, version: str) -> int:
        """Return how many answers were given under a version of the guidelines."""
        return sum(count for answer, count in self.answers.items() if answer.version.decode() == version)

    def of_origin(self, origin: str) -> int:
        """Return how many rankings have this origin."""
        return sum(count for judgement, count in self.judgements.items() if judgement.origin.decode() == origin)

    def datasets(self) -> dict[str, dict[str, int]]:
        """Return how many of each kind came from each dataset that was imported."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for (kind, dataset), count in self.brought.items():
            found[dataset.decode()][kind] += count
        for judgement, count in self.judgements.items():
            if judgement.dataset:
                found[judgement.dataset.decode()]["comparisons"] += count
        return {dataset: dict(sorted(counts.items())) for dataset, counts in sorted(found.items())}

    def judged(self) -> bool:
        """Return whether any answer was judged by a criterion."""
        return any(judgement.is_judged for judgement in self.judgements)

    def cut(self) -> bool:
        """Return whether any answer was cut off by a limit of its length."""
        return any(judgement.is_cut for judgement in self.judgements)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of answers and rankings. A count of nothing is left out where it always was."""
        labelers: dict[str, Counter[str]] = defaultdict(Counter)
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for answer, count in self.answers.items():
            labelers[answer.labeler.decode()][answer.kind] += count
            counts["versions"][answer.version.decode()] += count
            counts["judges"][answer.judge.decode()] += count
            counts["simulated"][answer.kind] += count * (answer.judge == b"simulated")
            if answer.version.decode() == str(IMPORTED_VERSION):  # which no project's own has
                counts["imported"][answer.kind] += count
        for judgement, count in self.judgements.items():
            counts["sizes"][str(judgement.size)] += count
            counts["origins"][judgement.origin.decode()] += count
            counts["holds"]["with ties"] += count * judgement.has_ties
            counts["holds"]["with strengths"] += count * judgement.has_strengths
            if judgement.is_judged:
                counts["holds"]["with judgements"] += count
            if judgement.is_cut:
                counts["holds"]["with cut answers"] += count
        shown = {name: dict(sorted(found.items())) for name, found in counts.items()}
        return {
            "labelers": {name: dict(found) for name, found in sorted(labelers.items())},
            "guideline_versions": shown.get("versions", {}),
            "simulated": shown.get("simulated", {}),
            "judges": shown.get("judges", {}),
            "origins": shown.get("origins", {}),
            "ranked_answers": shown.get("sizes", {}),
            "rankings_hold": shown.get("holds", {}),
            **({"datasets": datasets} if (datasets := self.datasets()) else {}),
            **({"rounds": rounds} if (rounds := self.rounds()) else {}),
            **({"imported": shown["imported"]} if "imported" in shown else {}),
        }
