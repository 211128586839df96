"""Writing a snapshot's files from one moment of the database, as a stream: memory holds some lines.

Lines are hashed on their way to the disk, and beside each data file goes its ledger, by which a frozen answer is found
again. `snapshot_lines` puts the lines together, `snapshot_tally` counts what they hold.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import GuidelineVersion, Project
from app.services.data import exports, ledgers
from app.services.labeling import standing
from app.services.training import snapshot_lines
from app.services.training.snapshot_lines import Lines
from app.services.training.snapshot_tally import Tally

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
JUDGED = {"judgements": "[{criterion: number, true or false}], one a completion; on lines where anything was judged"}
"""A column of the comparisons, in projects whose guidelines ask about single answers."""
CUT = {"ended": "[true or false], whether each completion ended by itself; on lines where one was cut off"}
"""A column of the comparisons where models answered that were stopped by a limit of length."""


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


Told = Callable[[int], None]
"""Is told again and again how many lines of data files are written by now."""


def write(moment: Session, project: Project, folder: Path, ledger_folder: Path, told: Told) -> Written:
    """Write the data files and their ledgers and return what they hold. `told` is called again and again meanwhile."""
    written, tally = Written(), Tally()
    labelers = {str(user).encode(): name.encode() for user, name in exports.labelers(moment, project.id).items()}
    steps: tuple[tuple[str, Callable[[], Iterator[Lines]]], ...] = (
        ("prompts", lambda: snapshot_lines.prompts(moment, project, tally)),
        ("demonstrations", lambda: snapshot_lines.demonstrations(moment, project, labelers, tally)),
        ("comparisons", lambda: snapshot_lines.comparisons(moment, project, labelers, tally)),
    )
    count = 0
    for name, found in steps:
        with ExitStack() as stack:
            file = stack.enter_context(HashedFile(folder / f"{name}.jsonl"))
            ledger = stack.enter_context(ledgers.Writer(ledger_folder))
            for lines in _gathered(found()):
                file.write(lines.data)
                ledger.write(lines.ledger)
                count += len(lines.data)
                told(count)
        written.files[f"{name}.jsonl"], written.ledgers[name] = file.facts(), ledger.facts()
    written.facts = {
        "splits": tally.by_split(),
        "split_rule": SPLIT_RULE,
        "held_out_fraction": project.held_out_fraction,
        "filters": FILTERS,
        "columns": {
            **COLUMNS,
            "comparisons.jsonl": COLUMNS["comparisons.jsonl"]
            | (JUDGED if tally.judged() else {})
            | (CUT if tally.cut() else {}),
        },
        "guidelines": _guidelines(moment, project, tally),
        **tally.facts(),
        "adjudicated": standing.adjudicated(moment, project.id)
        if tally.of_origin("adjudication")
        else {"comparisons": 0, "rankings_replaced": 0},
    }
    return written


def _gathered(found: Iterator[Lines]) -> Iterator[Lines]:
    """Yield the lines of many prompts together: two files are written to and hashed each time."""
    gathered = Lines([], [])
    for lines in found:
        gathered.data.extend(lines.data)
        gathered.ledger.extend(lines.ledger)
        if len(gathered.data) >= GATHERED:
            yield gathered
            gathered = Lines([], [])
    if gathered.data:
        yield gathered


def _guidelines(moment: Session, project: Project, tally: Tally) -> dict[str, dict[str, Any]]:
    """Return the versions that answers were made under: how many, and the hash by which the wording is known."""
    found = moment.execute(
        select(GuidelineVersion.version, GuidelineVersion.body)
        .where(GuidelineVersion.project_id == project.id)
        .order_by(GuidelineVersion.version)
    )
    return {
        str(version): {"answers": count, "sha256": hashlib.sha256(body.encode()).hexdigest()}
        for version, body in found
        if (count := tally.of_version(str(version)))
    }
