"""What is different between two snapshots of a project: what came, what went and why, by labeler, version and split.

Both ledgers are read side by side, prompt by prompt, so memory holds what is different and little else.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import case, exists, literal, select
from sqlalchemy.orm import Session, aliased

from app.errors import InvalidInputError
from app.models import Demonstration, Ranking, Snapshot
from app.services.data import frozen
from app.services.labeling import standing
from app.services.quality import quarantines

KINDS = ("prompts", "comparisons", "demonstrations")
GROUPS = ("labeler", "guideline_version", "split", "judge")
SHOWN = 100
_BATCH = 1_000

SUPERSEDED = "superseded by a later answer"
Side = Literal["added", "removed"]


@dataclass
class Changes:
    """What of one kind is in both snapshots, in the newer one alone and in the older one alone.

    `because` counts why the removed ones are gone as the database has it now; `by` counts added and removed ones for
    each labeler, guideline version, split and judge. Of the ids the first `SHOWN` are kept.
    """

    kept: int = 0
    added: int = 0
    removed: int = 0
    because: Counter[str] = field(default_factory=Counter)
    by: dict[str, dict[str, Counter[str]]] = field(default_factory=lambda: {name: {} for name in GROUPS})
    added_ids: list[str] = field(default_factory=list)
    removed_ids: list[str] = field(default_factory=list)

    @property
    def superseded(self) -> int:
        """How many of the removed ones a later answer of the same labeler has replaced."""
        return self.because[SUPERSEDED]

    def count(self, side: Side, entry: dict[str, Any]) -> None:
        """Count an entry that only one of the snapshots has."""
        ids = self.added_ids if side == "added" else self.removed_ids
        if side == "added":
            self.added += 1
        else:
            self.removed += 1
        if len(ids) < SHOWN:
            ids.append(entry["id"])
        for name in GROUPS:
            if name in entry:
                self.by[name].setdefault(str(entry[name]), Counter())[side] += 1


@dataclass(frozen=True)
class Difference:
    """Two snapshots of a project, and what changed of each kind."""

    older: Snapshot
    newer: Snapshot
    changes: dict[str, Changes]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            **{
                name: {"id": str(item.id), "number": item.number, "sha256": item.sha256}
                for name, item in (("older", self.older), ("newer", self.newer))
            },
            **{
                kind: {
                    "kept": found.kept,
                    "added": found.added,
                    "removed": found.removed,
                    "superseded": found.superseded,
                    "removed_because": dict(sorted(found.because.items())),
                    "by": {
                        name: {
                            key: {"added": counts["added"], "removed": counts["removed"]}
                            for key, counts in sorted(groups.items())
                        }
                        for name, groups in found.by.items()
                    },
                    "added_ids": found.added_ids,
                    "removed_ids": found.removed_ids,
                }
                for kind, found in self.changes.items()
            },
        }


def compare(session: Session, older: Snapshot, newer: Snapshot) -> Difference:
    """Return what is different; raise `InvalidInputError` unless both are of one project."""
    if older.project_id != newer.project_id:
        raise InvalidInputError("Only snapshots of one project can be compared.")
    return Difference(older, newer, {kind: _changes(session, older, newer, kind) for kind in KINDS})


def _changes(session: Session, older: Snapshot, newer: Snapshot, kind: str) -> Changes:
    found, gone = Changes(), list[UUID]()
    before, after = frozen.ledger_lines(older, kind), frozen.ledger_lines(newer, kind)
    for side, entry in _different(before, after, found):
        found.count(side, entry)
        if side == "removed":
            gone.append(UUID(entry["id"]))
        if len(gone) == _BATCH:
            found.because += _reasons(session, kind, gone)
            gone = []
    found.because += _reasons(session, kind, gone)
    return found


def _different(
    before: Iterator[bytes], after: Iterator[bytes], found: Changes
) -> Iterator[tuple[Side, dict[str, Any]]]:
    """Yield the entries of one side alone. Both sides come in the order of the prompts' positions."""
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if old == new:  # which most lines are, and then nothing has to be read
            found.kept += 1
            old, new = next(before, None), next(after, None)
            continue
        place = min(_position(line) for line in (old, new) if line is not None)
        gone, old = _group(old, before, place)
        come, new = _group(new, after, place)
        found.kept += len(gone.keys() & come.keys())
        yield from (("removed", gone[key]) for key in gone if key not in come)
        yield from (("added", come[key]) for key in come if key not in gone)


def _position(line: bytes) -> int:
    return int(line[len(b'{"position":') : line.index(b",")])


def _group(line: bytes | None, rest: Iterator[bytes], position: int) -> tuple[dict[str, dict[str, Any]], bytes | None]:
    """Return the entries of one prompt by id, and the first line behind them."""
    entries: dict[str, dict[str, Any]] = defaultdict(dict)
    while line is not None and _position(line) == position:
        entry = json.loads(line)
        entries[entry["id"]] = entry
        line = next(rest, None)
    return entries, line


def _reasons(session: Session, kind: str, ids: list[UUID]) -> Counter[str]:
    """Return why these are not in a snapshot of now."""
    if not ids or kind == "prompts":
        return Counter()
    table: type[Ranking] | type[Demonstration] = Ranking if kind == "comparisons" else Demonstration
    later = aliased(table)
    follows = exists().where(later.supersedes == table.id)
    why = case(
        (exists().where(later.supersedes == table.id, later.retracts), "taken back by the labeler"),
        (follows, SUPERSEDED),
        (quarantines.is_set_aside(table), "set aside by a quarantine"),
        (standing.is_adjudicated(Ranking.task_id), "replaced by a reviewer's verdict")
        if kind == "comparisons"
        else (literal(value=False), ""),
        else_="for another reason",
    )
    return Counter(session.scalars(select(why).where(table.id.in_(ids))))
