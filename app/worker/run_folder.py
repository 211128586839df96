"""A run directory as its supervisor sees it: written once before the trainer starts, then read while it works."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Prompt, Run, Snapshot
from app.services.labeling import queue_order
from app.services.training import artifacts, run_states
from app.services.training.run_states import NewCheckpoint
from app.services.training.snapshots import prompt_record
from app.worker.child import LOG_FILE
from trainer.config import RunConfig, artifact_folder, artifacts_named
from trainer.jsonl import RecordError, write_jsonl
from trainer.manifest import verify_manifest, write_manifest

logger = logging.getLogger(__name__)

LOG_TAIL_BYTES = 16 << 10


@dataclass(frozen=True)
class Plan:
    """What a run directory is made from, read from the database in one go: making it may take long.

    Without a snapshot the data are `rows`: a scoring run's tasks, or the prompts of any other.
    """

    method: str
    gpus: int
    config: dict[str, Any]
    snapshot: str | None
    rows: tuple[Any, ...]
    checkpoints: tuple[NewCheckpoint, ...]


def plan(session: Session, run: Run) -> Plan:
    """Return what the run directory of a run is made from."""
    chosen: tuple[Any, ...] = ()
    if run.method == "score":
        chosen = tuple(queue_order.unjudged(session, run))
    elif run.snapshot_id is None:
        rows = session.execute(
            select(Prompt.content_sha256, Prompt.messages, Prompt.split)
            .where(Prompt.id.in_([UUID(item) for item in run.inputs["prompts"]]))
            .order_by(Prompt.position)
        )
        chosen = tuple(prompt_record(row.content_sha256, row.messages, row.split) for row in rows)
    snapshot = session.get_one(Snapshot, run.snapshot_id).uri if run.snapshot_id else None
    registered = tuple(run_states.registered(session, run.id))
    return Plan(run.method, run.gpus, run.config, snapshot, chosen, registered)


def prepare(plan: Plan, folder: Path, fence: int) -> None:
    """Write `run.json` and `data/`, and bring what lies in the artifact store: the models, and the last checkpoint.

    A second attempt finds the same bytes, which its checkpoints ask for. Everything is made aside, under the attempt's
    own name, and renamed: an earlier attempt that was only held up may be at the same. Raises `RecordError` when files
    of the snapshot or of a model are missing or were changed.
    """
    _write_inputs(plan, folder, fence)
    for name in artifacts_named(plan.config):
        place = artifact_folder(folder, name)
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(artifacts.local(name))
    _bring_checkpoint(plan.checkpoints, folder / "checkpoints")


def _bring_checkpoint(registered: Sequence[NewCheckpoint], folder: Path) -> None:
    """Fetch the newest registered checkpoint unless this machine has one as new; of damaged ones the one before."""
    steps = [int(path.parent.name.removeprefix("step_")) for path in folder.glob("step_*/manifest.json")]
    for found in registered:
        if found.step <= max(steps, default=0) or not artifacts.is_stored(found.uri):
            return
        try:
            artifacts.bring(found.uri, folder / f"step_{found.step:06d}")
        except RecordError as error:
            logger.warning("checkpoint of step %s is passed over: %s", found.step, error)
        else:
            return


def _write_inputs(plan: Plan, folder: Path, fence: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{RunConfig.FILE}.{fence}.partial"
    aside.write_text(json.dumps(plan.config, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(folder / RunConfig.FILE)
    data = folder / "data"
    if data.exists():
        verify_manifest(data)
        return
    partial = folder / f".data.{fence}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    if plan.snapshot is not None:
        source = artifacts.local(plan.snapshot)
        verify_manifest(source)
        # A copy, not a link: whatever a trainer does to its own data, the snapshot stays as it was frozen.
        shutil.copytree(source, partial)
    else:
        partial.mkdir()
        name = "comparisons" if plan.method == "score" else "prompts"
        write_jsonl(partial / f"{name}.jsonl", list(plan.rows))
        write_manifest(partial)
    partial.rename(data)


class MetricsTail:
    """Reads what was appended to `metrics.jsonl`, whole lines only, and starts over when the file was replaced."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.jsonl"
        self._inode = 0
        self._offset = 0

    def read(self) -> dict[int, dict[str, Any]]:
        """Return the new lines as step → numbers; numbers that are not finite become null."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return {}
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = {}
        for line in whole.splitlines():
            try:
                value = json.loads(line)
                step = int(value.pop("step"))
                rows[step] = {key: _finite(item) for key, item in value.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("%s has a line that is no metrics: %s", self._path, error)
        return rows


def log_tail(folder: Path) -> str:
    """Return the last 16 KiB of the log as text that Postgres takes; of a progress bar only its last state."""
    try:
        with (folder / LOG_FILE).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LOG_TAIL_BYTES))
            raw = file.read()
    except FileNotFoundError:
        return ""
    text = raw.decode("utf-8", errors="replace").replace("\x00", "")
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(lines[1:] if size > LOG_TAIL_BYTES else lines)


def last_sentence(folder: Path) -> str:
    """Return the last line of the log that says something: where a trainer that gives up puts its reason."""
    return next(
        (line.strip() for line in reversed(log_tail(folder).split("\n")) if line.strip()), "It left no message."
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
