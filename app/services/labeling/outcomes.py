"""What a finished run yields: a model version, answers to be ranked, or figures about models.

Reading and checking the files takes time, so it comes before the transaction; storing is one step inside the
transaction that ends the run, under the run's fence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select, type_coerce, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.models import ModelVersion, Prompt, Run
from app.services.labeling import queue_order, tasks
from app.services.training import artifacts, charts, registry, run_files
from app.services.training.snapshots import prompt_record
from trainer.jsonl import RecordError
from trainer.manifest import file_sha256, verify_manifest
from trainer.records import Sample, Score, read_samples, read_scores


@dataclass(frozen=True)
class Outcome:
    """The checked results of a run; for methods that train, where the model is, and the hash of its manifest.

    `files_uri` is where the files lie that its page shows, if there is a store.
    """

    report: dict[str, Any]
    uri: str | None = None
    manifest_sha256: str | None = None
    samples: tuple[Sample, ...] = ()
    scores: tuple[Score, ...] = ()
    files_uri: str | None = None


def read(method: str, run_dir: Path) -> Outcome:
    """Read and verify what a trainer that ended well has left, and send its model to the store, if there is one.

    Raises `RecordError` when something is not complete, `OSError` when it cannot be read or sent.
    """
    try:
        report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"report.json cannot be read: {error}.") from None
    files = run_files.publish(run_dir)
    if method in registry.KINDS:
        final = run_dir / "final"
        verify_manifest(final)
        digest = file_sha256(final / "manifest.json")
        return Outcome(report, artifacts.publish(final, digest), digest, files_uri=files)
    if method == "sample":
        return Outcome(report, samples=tuple(read_samples(run_dir / "samples.jsonl")), files_uri=files)
    if method == "score":
        return Outcome(report, scores=tuple(read_scores(run_dir / "scores.jsonl")), files_uri=files)
    return Outcome(report, files_uri=files)


def store(session: Session, run: Run, outcome: Outcome) -> None:
    """Store the outcome, in the transaction that makes the run succeeded."""
    run.files_uri = outcome.files_uri
    summary = outcome.report.get("summary", {})
    if outcome.uri is not None and outcome.manifest_sha256 is not None:
        metrics = {key: value for key, value in summary.items() if charts.is_figure(value)}
        registry.add_trained(session, run, uri=outcome.uri, manifest_sha256=outcome.manifest_sha256, metrics=metrics)
    elif run.method == "sample":
        if run.parent_model_id is None:
            raise RecordError("A sampling run names no model.")
        tasks.add_sampled(session, run, _with_prompt_ids(session, run, outcome.samples), run.parent_model_id)
    elif run.method == "score":
        unknown = {score.id for score in outcome.scores} - set(run.inputs["tasks"])
        if unknown:
            raise RecordError(f"scores.jsonl names a task that the run was not given: {min(unknown)}.")
        queue_order.apply(session, run, outcome.scores)
    else:
        _add_figures(session, run, summary.get("policies", {}))


def _with_prompt_ids(session: Session, run: Run, samples: tuple[Sample, ...]) -> list[Sample]:
    """Return the samples with the prompts' database ids; in the run's files prompts are named by their content."""
    rows = session.execute(
        select(Prompt.id, Prompt.content_sha256, Prompt.messages, Prompt.split).where(
            Prompt.project_id == run.project_id, Prompt.id.in_([UUID(item) for item in run.inputs["prompts"]])
        )
    )
    ids = {prompt_record(row.content_sha256, row.messages, row.split).id: str(row.id) for row in rows}
    unknown = {sample.prompt_id for sample in samples} - ids.keys()
    if unknown:
        raise RecordError(f"samples.jsonl names a prompt that the run was not given: {min(unknown)}.")
    return [replace(sample, prompt_id=ids[sample.prompt_id]) for sample in samples]


def _add_figures(session: Session, run: Run, figures: dict[str, Any]) -> None:
    """Note an evaluation's figures on each model that it judged; a later evaluation replaces them."""
    for name, model_id in run.inputs["policies"].items():
        if name in figures:
            value = {"evaluation": {**figures[name], "run_id": str(run.id)}}
            session.execute(
                update(ModelVersion)
                .where(ModelVersion.id == UUID(model_id))
                .values(metrics=ModelVersion.metrics.op("||")(type_coerce(value, JSONB)))
            )
