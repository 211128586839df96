"""Writing a snapshot's files from one moment of the database, as a stream: memory holds some lines.

PostgreSQL joins and spells the texts, in the order of the prompts; here lines are put together from its bytes and
hashed on their way to the disk. What identifies a row in this database (ids, times) stays out of the data files and
goes into ledgers, one line for each line of a data file, by which a frozen answer is found again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Select, Text, cast, column, func, literal_column, select, text, true
from sqlalchemy.orm import Session

from app.models import Demonstration, GuidelineVersion, Import, Project, Prompt, Ranking, Task
from app.services.data import exports, ledgers
from app.services.labeling import standing
from app.services.projects import mixing
from app.services.projects.guidelines import IMPORTED_VERSION
from trainer import records

SPLIT_RULE = "held_out when the first 8 bytes of sha256(canonical JSON of messages), as a fraction, are below the limit"
FILTERS = {
    "counted": True,
    "superseded": False,
    "retracted": False,
    "quarantined": False,
    "purpose": "collect",
    "adjudicated": "where a reviewer has adjudicated a task, that ranking stands for those of the labelers",
}
COLUMNS = {
    "prompts.jsonl": {"id": "p and 16 hex digits of the content's sha256", "messages": "[{content, role}]",
                      "split": "train or held_out"},
    "demonstrations.jsonl": {"id": "text", "messages": "[{content, role}]", "completion": "text", "weight": "number",
                             "split": "train or held_out"},
    "comparisons.jsonl": {"id": "text", "messages": "[{content, role}]", "completions": "[text]",
                          "ranking": "[[place in completions]], tie groups, the best first",
                          "strengths": "[1, 2, 3 or null] for neighbouring groups, or null",
                          "acceptable": "how many of the first groups are acceptable, or null",
                          "labeler": "pseudonym", "weight": "number", "split": "train or held_out"},
}  # fmt: skip


GATHERED = 256
"""Lines that are written at once."""


@dataclass
class Written:
    """What has been written: facts of each data file and of each ledger, and the tally for the manifest."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    ledgers: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def rows(self, name: str) -> int:
        """Return how many lines a data file has."""
        rows: int = self.files[f"{name}.jsonl"]["rows"]
        return rows


class HashedFile:
    """A file that is counted and hashed while it is written, and flushed to the disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path, self._file, self._digest = path, path.open("wb"), hashlib.sha256()
        self._size = self._rows = 0

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def write(self, lines: list[bytes]) -> None:
        """Write whole lines."""
        data = b"".join(lines)
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)
        self._rows += len(lines)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the file."""
        return {"sha256": self._digest.hexdigest(), "bytes": self._size, "rows": self._rows}


class _Tally:
    """Counts who answered, what judged, under which guidelines and where, and what the rankings hold."""

    def __init__(self) -> None:
        self._labelers: dict[str, Counter[str]] = defaultdict(Counter)
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.splits: dict[str, Counter[str]] = defaultdict(Counter)
        self._weights: dict[int, Counter[float]] = defaultdict(Counter)

    def add(self, kind: str, labeler: str, version: str, judge: str, split: str) -> None:
        self._labelers[labeler][kind] += 1
        self._counts["versions"][version] += 1
        self._counts["judges"][judge] += 1
        self._counts["simulated"][kind] += judge == "simulated"
        self.splits[kind][split] += 1

    def ranking(self, groups: list[list[int]], strengths: str, origin: str, dataset: str, line_on: str) -> None:
        """Count what a ranking holds. `line_on` is its split if the labeler drew the line to what is not acceptable."""
        if line_on:
            self.splits["acceptable"][line_on] += 1
        self._counts["sizes"][str(sum(map(len, groups)))] += 1
        self._counts["origins"][origin] += 1
        self._counts["holds"]["with ties"] += any(len(group) > 1 for group in groups)
        self._counts["holds"]["with strengths"] += any(digit in strengths for digit in "123")
        if dataset:
            self._counts["datasets"][dataset] += 1

    def weigh(self, round_number: int, weight: float) -> None:
        self._weights[round_number][weight] += 1

    def rounds(self) -> dict[str, dict[str, float]]:
        """Return how many rankings each round brought and what they weigh together; nothing before the first refresh.

        A manifest without rounds stays as it was before there were any, and with it the snapshot's address.
        """
        if self._weights.keys() <= {0} and self._weights[0].keys() <= {1.0}:
            return {}
        return {
            str(number): {
                "comparisons": counts.total(),
                "weight": round(sum(weight * count for weight, count in counts.items()), mixing.DIGITS),
            }
            for number, counts in sorted(self._weights.items())
        }

    def by_split(self) -> dict[str, dict[str, int]]:
        """Return how many there are on each side, of every kind; `acceptable` counts the lines drawn, if any were."""
        found = {name: dict(sorted(counts.items())) for name, counts in self.splits.items()}
        return {"prompts": {}, "demonstrations": {}, "comparisons": {}} | found

    def count(self, of: str, what: str) -> int:
        return self._counts[of][what]

    def facts(self) -> dict[str, Any]:
        counts = {name: dict(sorted(found.items())) for name, found in self._counts.items()}
        imported = counts.get("versions", {}).get(str(IMPORTED_VERSION), 0)
        return {
            "labelers": {name: dict(found) for name, found in sorted(self._labelers.items())},
            "guideline_versions": counts.get("versions", {}),
            "simulated": counts.get("simulated", {}),
            "judges": counts.get("judges", {}),
            "origins": counts.get("origins", {}),
            "ranked_answers": counts.get("sizes", {}),
            "rankings_hold": counts.get("holds", {}),
            **({"datasets": counts["datasets"]} if "datasets" in counts else {}),
            **({"rounds": rounds} if (rounds := self.rounds()) else {}),
            # They name a version that no project's own has.
            **({"imported": {"comparisons": imported}} if imported else {}),
        }


def write(moment: Session, project: Project, folder: Path, ledger_folder: Path, beat: Callable[[], None]) -> Written:
    """Write the data files and their ledgers and return what they hold. `beat` is called again and again meanwhile."""
    written, tally = Written(), _Tally()
    labelers = {str(user): name for user, name in exports.labelers(moment, project.id).items()}
    steps: tuple[tuple[str, Callable[[], Iterator[_Lines]]], ...] = (
        ("prompts", lambda: _prompts(moment, project, tally)),
        ("demonstrations", lambda: _demonstrations(moment, project, labelers, tally)),
        ("comparisons", lambda: _comparisons(moment, project, labelers, tally)),
    )
    for name, found in steps:
        with ExitStack() as stack:
            file = stack.enter_context(HashedFile(folder / f"{name}.jsonl"))
            ledger = stack.enter_context(ledgers.Writer(ledger_folder))
            for lines in _gathered(found()):
                file.write(lines.data)
                ledger.write(lines.ledger)
                beat()
        written.files[f"{name}.jsonl"], written.ledgers[name] = file.facts(), ledger.facts()
    written.facts = {
        "splits": tally.by_split(),
        "split_rule": SPLIT_RULE,
        "held_out_fraction": project.held_out_fraction,
        "filters": FILTERS,
        "columns": COLUMNS,
        "guidelines": _guidelines(moment, project, tally),
        **tally.facts(),
        "adjudicated": standing.adjudicated(moment, project.id)
        if tally.count("origins", "adjudication")
        else {"comparisons": 0, "rankings_replaced": 0},
    }
    return written


@dataclass(frozen=True)
class _Lines:
    """Lines of a data file and, for each, the line of its ledger."""

    data: list[bytes]
    ledger: list[bytes]


def _gathered(found: Iterator[_Lines]) -> Iterator[_Lines]:
    """Yield the lines of many prompts together: two files are written to and hashed each time."""
    gathered = _Lines([], [])
    for lines in found:
        gathered.data.extend(lines.data)
        gathered.ledger.extend(lines.ledger)
        if len(gathered.data) >= GATHERED:
            yield gathered
            gathered = _Lines([], [])
    if gathered.data:
        yield gathered


def _guidelines(moment: Session, project: Project, tally: _Tally) -> dict[str, dict[str, Any]]:
    """Return the versions that answers were made under: how many, and the hash by which the wording is known."""
    found = moment.execute(
        select(GuidelineVersion.version, GuidelineVersion.body)
        .where(GuidelineVersion.project_id == project.id)
        .order_by(GuidelineVersion.version)
    )
    return {
        str(version): {"answers": count, "sha256": hashlib.sha256(body.encode()).hexdigest()}
        for version, body in found
        if (count := tally.count("versions", str(version)))
    }


def _rows(moment: Session, statement: Select[*tuple[Any, ...]]) -> Iterator[list[list[bytes]]]:
    """Yield the rows of many prompts at once as lists of fields. None of the fields may hold a control character."""
    for chunk in exports.copied(moment, statement):
        yield [line.split(exports.DELIMITER) for line in chunk.splitlines()]


def _by_prompt(chunks: Iterator[list[list[bytes]]]) -> Iterator[list[list[bytes]]]:
    """Yield the rows of each prompt, whose position is the first field."""
    rows: list[list[bytes]] = []
    for chunk in chunks:
        for row in chunk:
            if rows and row[0] != rows[0][0]:
                yield rows
                rows = []
            rows.append(row)
    if rows:
        yield rows


def _prompts(moment: Session, project: Project, tally: _Tally) -> Iterator[_Lines]:
    statement = (
        select(Prompt.position, Prompt.split, Prompt.content_sha256, cast(Prompt.messages, Text), Prompt.id)
        .where(Prompt.project_id == project.id)
        .order_by(Prompt.position)
    )
    for chunk in _rows(moment, statement):
        for row in chunk:
            tally.splits["prompts"][row[1].decode()] += 1
        yield _Lines(
            [
                b'{"id":"p%s","messages":%s,"split":"%s"}\n' % (sha256[:16], _canonical(messages), split)
                for _, split, sha256, messages, _ in chunk
            ],
            [b'{"position":%s,"split":"%s","id":"%s"}\n' % (row[0], row[1], row[4]) for row in chunk],
        )


def _demonstrations(moment: Session, project: Project, labelers: dict[str, str], tally: _Tally) -> Iterator[_Lines]:
    entry = (
        "(SELECT row_to_json(entry) FROM (SELECT demonstrations.id, prompts.id AS prompt_id, "
        "guideline_versions.version AS guideline_version, demonstrations.created_at) entry)"
    )
    statement = (
        select(
            Prompt.position,
            cast(Prompt.messages, Text),
            Prompt.split,
            Demonstration.user_id,
            GuidelineVersion.version,
            literal_column(exports.DEMONSTRATION_JUDGE),
            func.to_json(Demonstration.text),
            literal_column(entry),
        )
        .join(Task, Task.prompt_id == Prompt.id)
        .join(Demonstration, Demonstration.task_id == Task.id)
        .join(GuidelineVersion, GuidelineVersion.id == Demonstration.guideline_version_id)
        .where(Prompt.project_id == project.id, *standing.demonstrations())
        .order_by(Prompt.position)
    )
    number = 0
    for rows in _by_prompt(_rows(moment, statement)):
        messages, split = _canonical(rows[0][1]), rows[0][2]
        found = []
        for _, _, _, user, version, judge, answer, ledger in rows:
            labeler = labelers[user.decode()]
            tally.add("demonstrations", labeler, version.decode(), judge.decode(), split.decode())
            found.append((answer, labeler, _entry(rows[0][0], split, labeler, judge, ledger)))
        found.sort()
        lines = _Lines([], [ledger for _, _, ledger in found])
        for answer, _, _ in found:
            number += 1
            lines.data.append(
                b'{"completion":%s,"id":"d%06d","messages":%s,"split":"%s","weight":1.0}\n'
                % (answer, number, messages, split)
            )
        yield lines


_ANSWERS = """
    SELECT array_to_json(array_agg(answer.text)) AS texts, array_to_json(array_agg(answer.id)) AS ids,
           array_to_json(array_agg(coalesce(answer.policy, ''))) AS policies,
           array_to_json(array_agg(answer.entry)) AS entries
    FROM (
        SELECT completion.id, completion.text, model.name AS policy, (
            SELECT row_to_json(entry) FROM (
                SELECT completion.id, completion.source, completion.parent_id, completion.model_version_id,
                       coalesce(model.name, completion.sampling->>'model') AS model_version, completion.finish_reason
            ) entry
        ) AS entry
        FROM task_completions place
        JOIN completions completion ON completion.id = place.completion_id
        LEFT JOIN model_versions model ON model.id = completion.model_version_id
        WHERE place.task_id = rankings.task_id
        ORDER BY place.position
    ) answer
"""
_RANKING_ENTRY = """
    (SELECT row_to_json(entry) FROM (
        SELECT rankings.id, rankings.project_id, rankings.task_id, prompts.id AS prompt_id,
               answers.entries AS completions, rankings.origin, rankings.groups AS ranking, rankings.judgements,
               rankings.reason, rankings.shown_order, guideline_versions.version AS guideline_version, rankings.seconds,
               imports.dataset, rankings.supersedes, rankings.created_at
    ) entry)
"""


def _comparisons_statement(project: Project) -> Select[Any]:
    answers = (
        text(_ANSWERS).columns(column("texts"), column("ids"), column("policies"), column("entries")).lateral("answers")
    )
    return (
        select(
            Prompt.position,
            cast(Prompt.messages, Text),
            Prompt.split,
            Ranking.user_id,
            GuidelineVersion.version,
            literal_column(exports.RANKING_JUDGE),
            Ranking.origin,
            Import.dataset,
            answers.c.texts,
            answers.c.ids,
            cast(Ranking.groups, Text),
            func.array_to_json(Ranking.strengths),
            Ranking.acceptable,
            Task.round,
            answers.c.policies,
            literal_column(_RANKING_ENTRY),
        )
        .select_from(Prompt)
        .join(Task, Task.prompt_id == Prompt.id)
        .join(Ranking, Ranking.task_id == Task.id)
        .join(GuidelineVersion, GuidelineVersion.id == Ranking.guideline_version_id)
        .outerjoin(Import, Import.id == Ranking.import_id)
        .join(answers, true())
        .where(Prompt.project_id == project.id, *standing.rankings())
        .order_by(Prompt.position)
    )


def _comparisons(moment: Session, project: Project, labelers: dict[str, str], tally: _Tally) -> Iterator[_Lines]:
    number = 0
    weight_of = _weigher(moment, project, tally)
    for rows in _by_prompt(_rows(moment, _comparisons_statement(project))):
        messages, split = _canonical(rows[0][1]), rows[0][2]
        found = []
        for row in rows:
            user, version, judge, origin, dataset = (item.decode() for item in row[3:8])
            texts, ids, groups, strengths, acceptable, round_number, policies, ledger = row[8:]
            ranking = _places(groups, ids)
            labeler = labelers[user]
            tally.add("comparisons", labeler, version, judge, split.decode())
            tally.ranking(ranking, strengths.decode(), origin, dataset, split.decode() if acceptable else "")
            spelled = str(ranking).replace(" ", "").encode()
            entry = _entry(rows[0][0], split, labeler, judge.encode(), ledger)
            weight = weight_of(int(round_number), policies)
            found.append((texts, labeler.encode(), spelled, strengths or b"null", acceptable or b"null", weight, entry))
        # Whatever is equal in all of the first six is one line or the other; the ledger's id settles the rest.
        found.sort()
        lines = _Lines([], [item[-1] for item in found])
        for texts, name, spelled, strengths, acceptable, weight, _ in found:
            number += 1
            lines.data.append(
                b'{"acceptable":%s,"completions":%s,"id":"c%06d","labeler":"%s","messages":%s,"ranking":%s,'
                b'"split":"%s","strengths":%s,"weight":%s}\n'
                % (acceptable, texts, number, name, messages, spelled, split, strengths, weight)
            )
        yield lines


def _weigher(moment: Session, project: Project, tally: _Tally) -> Callable[[int, bytes], bytes]:
    """Return what says how much a ranking of a round weighs, given the names of its answers' policies as JSON."""
    used = moment.scalars(select(Task.round).where(Task.project_id == project.id, Task.state != "draft").distinct())
    ages = mixing.ages(used.all())

    @lru_cache(maxsize=4096)
    def weight_of(round_number: int, policies: bytes) -> float:
        return mixing.weight(
            ages.get(round_number, 0), json.loads(policies), project.round_weight_percent, project.policy_weights
        )

    def spelled(round_number: int, policies: bytes) -> bytes:
        weight = weight_of(round_number, policies)
        tally.weigh(round_number, weight)
        return json.dumps(weight).encode()

    return spelled


def _places(groups: bytes, ids: bytes) -> list[list[int]]:
    """Return tie groups of completion ids, as PostgreSQL spells them, as groups of places in the list of `ids`.

    Inside a tie no answer comes first, so the order there is no information and must not change the bytes. It is cut
    rather than parsed: ids hold nothing that JSON would escape, and this is done for each of a million rankings.
    """
    place_of = {item: place for place, item in enumerate(ids[2:-2].split(b'","'))}
    if groups == b"[]":
        return []
    return [sorted(place_of[item] for item in group.split(b'", "')) for group in groups[3:-3].split(b'"], ["')]


def _entry(position: bytes, split: bytes, labeler: str, judge: bytes, rest: bytes) -> bytes:
    """Return a line of a ledger: what both files need to be found, then what only this database knows."""
    known = b'{"position":%s,"split":"%s","labeler":"%s","judge":"%s",'
    return known % (position, split, labeler.encode(), judge) + rest[1:] + b"\n"


def _canonical(messages: bytes) -> bytes:
    """Return a prompt's messages in the one spelling of data files."""
    return records.canonical([{"role": item["role"], "content": item["content"]} for item in json.loads(messages)])
