"""The registry of models: base models brought in by hand, versions that runs leave behind, and the promoted policy."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import GateVerdict, ModelVersion, Project, Promotion, Run, Snapshot, User
from app.services.accounts import audit
from app.services.hooks import outbox
from app.services.training import artifacts
from trainer.jsonl import RecordError
from trainer.manifest import file_sha256, verify_manifest

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
KINDS = {"sft": "policy", "reward": "reward", "dpo": "policy", "kto": "policy", "ppo": "policy", "rloo": "policy"}
"""What the methods that train leave behind."""


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from: its ancestors from the nearest on, the run and the data, and what was made of it."""

    ancestors: list[ModelVersion]
    run: Run | None
    snapshot: Snapshot | None
    children: Sequence[ModelVersion]


def register_base(session: Session, project: Project, user: User, *, name: str, uri: str) -> ModelVersion:
    """Register a local folder or a hub id as a base policy of the project.

    Raises `InvalidInputError` when the folder is missing or is no model, `ConflictError` when the name is taken by
    another model. The same name and address again return the model that is there.
    """
    name, uri = name.strip(), uri.strip()
    if not NAME.fullmatch(name):
        raise InvalidInputError("A model's name has up to 64 letters, digits, dots, dashes or underscores.")
    folder = Path(uri).expanduser()
    if artifacts.is_stored(uri):
        _check_files_of(uri, artifacts.check(uri))
    elif folder.is_dir() or not HUB_ID.fullmatch(uri):
        check_folder(folder)
        uri = str(folder.resolve())
    existing = _by_name(session, project.id, name)
    if existing is None:
        model = ModelVersion(
            project_id=project.id, name=name, kind="policy", method="base", uri=uri, created_by=user.id
        )
        try:
            with session.begin_nested():
                session.add(model)
        except IntegrityError:
            existing = _by_name(session, project.id, name)
        else:
            audit.record(session, user, "model.registered", "model_version", model.id, uri=uri)
            return model
    if existing is not None and existing.uri == uri and existing.method == "base":
        return existing
    raise ConflictError(f"This project already has a model named {name!r}; choose another name.")


def add_trained(session: Session, run: Run, *, uri: str, manifest_sha256: str, metrics: dict[str, Any]) -> ModelVersion:
    """Store the model that a training run has left behind, named after its method and a number."""
    session.execute(select(Project.id).where(Project.id == run.project_id).with_for_update(key_share=True))
    taken = set(session.scalars(select(ModelVersion.name).where(ModelVersion.project_id == run.project_id)))
    number = 1
    while f"{run.method}-{number}" in taken:
        number += 1
    model = ModelVersion(
        project_id=run.project_id,
        name=f"{run.method}-{number}",
        kind=KINDS[run.method],
        method=run.method,
        uri=uri,
        parent_id=run.parent_model_id,
        run_id=run.id,
        snapshot_id=run.snapshot_id,
        manifest_sha256=manifest_sha256,
        metrics=metrics,
        created_by=run.created_by,
    )
    session.add(model)
    session.flush()
    return model


def active(session: Session, project_id: UUID) -> ModelVersion | None:
    """Return the policy that a project uses; None before the first promotion."""
    return session.scalar(
        select(ModelVersion).where(ModelVersion.project_id == project_id, ModelVersion.state == "promoted")
    )


def promote(
    session: Session,
    model: ModelVersion,
    user: User,
    *,
    how: Literal["admin", "gate", "rollback"] = "admin",
    verdict: GateVerdict | None = None,
) -> ModelVersion:
    """Make a policy the project's active one; the one before it becomes retired, in the same transaction.

    Raises `InvalidInputError` for a reward model or for files that are not what was stored. Promoting the promoted
    model again changes nothing.
    """
    if model.kind != "policy":
        raise InvalidInputError("Only a policy can be promoted; this is a reward model.")
    check_files(model)
    # The project's row is the lock: two admins who promote at once get one after the other, never two winners.
    session.execute(select(Project.id).where(Project.id == model.project_id).with_for_update(key_share=True))
    session.refresh(model)
    if model.state == "promoted":
        return model
    previous = session.scalar(
        update(ModelVersion)
        .where(ModelVersion.project_id == model.project_id, ModelVersion.state == "promoted")
        .values(state="retired")
        .returning(ModelVersion.id)
    )
    session.execute(
        update(ModelVersion)
        .where(ModelVersion.id == model.id)
        .values(state="promoted", promoted_at=func.clock_timestamp(), promoted_by=user.id)
    )
    session.refresh(model)
    session.add(
        Promotion(
            project_id=model.project_id,
            model_id=model.id,
            previous_id=previous,
            how=how,
            verdict_id=verdict.id if verdict else None,
            created_by=user.id,
        )
    )
    audit.record(session, user, "model.promoted", "model_version", model.id, name=model.name, how=how)
    outbox.announce(
        session, "model.promoted", model.project_id, model_id=model.id, name=model.name, previous_id=previous, how=how
    )
    return model


def get(session: Session, model_id: UUID) -> ModelVersion:
    """Return a model, or raise `NotFoundError`."""
    model = session.get(ModelVersion, model_id)
    if model is None:
        raise NotFoundError("There is no such model.")
    return model


def of_project(session: Session, project_id: UUID, kind: str | None = None) -> Sequence[ModelVersion]:
    """Return a project's models, the newest first, of one kind (`policy`, `reward`) or of both."""
    query = select(ModelVersion).where(ModelVersion.project_id == project_id).order_by(ModelVersion.id.desc())
    return session.scalars(query if kind is None else query.where(ModelVersion.kind == kind)).all()


def newest_reward_model(session: Session, project_id: UUID) -> ModelVersion:
    """Return a project's newest reward model; raise `InvalidInputError` when it has none."""
    found = of_project(session, project_id, "reward")
    if not found:
        raise InvalidInputError("The project has no reward model that could put tasks in order; train one first.")
    return found[0]


def usual_start(session: Session, project_id: UUID, method: str) -> UUID | None:
    """Return the policy that a run of this method usually starts from: the newest fine-tuned one, or the base."""
    policies = of_project(session, project_id, "policy")
    tuned = [model for model in policies if model.method == "sft"]
    if tuned and method in KINDS and method != "sft":
        return tuned[0].id
    return policies[-1].id if policies else None


def lineage(session: Session, model: ModelVersion) -> Lineage:
    """Return where a model comes from and what was made of it."""
    ancestors = []
    parent_id = model.parent_id
    while parent_id is not None:
        parent = session.get_one(ModelVersion, parent_id)
        ancestors.append(parent)
        parent_id = parent.parent_id
    return Lineage(
        ancestors,
        session.get(Run, model.run_id) if model.run_id else None,
        session.get(Snapshot, model.snapshot_id) if model.snapshot_id else None,
        session.scalars(select(ModelVersion).where(ModelVersion.parent_id == model.id).order_by(ModelVersion.id)).all(),
    )


def check_folder(folder: Path) -> None:
    """Raise `InvalidInputError` unless the folder holds a model that transformers can load without pickle."""
    if not folder.is_dir():
        raise InvalidInputError(f"The model folder {folder} does not exist; check the path, or put the model there.")
    if not (folder / "config.json").is_file():
        raise InvalidInputError(f"The folder {folder} has no config.json, so it is not a transformers model.")
    if not any(folder.glob("*.safetensors")):
        raise InvalidInputError(f"The folder {folder} has no safetensors file; convert the weights to safetensors.")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InvalidInputError(f"The folder {folder} has no tokenizer; save the model's tokenizer there.")


def heads(model: ModelVersion) -> int | None:
    """Return how many heads a reward model has, by its own files; None where they do not say."""
    try:
        facts = json.loads(artifacts.read_small(model.uri, "reward.json"))
        return len(facts["mean"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_files_of(uri: str, names: set[str]) -> None:
    """Raise `InvalidInputError` unless these files make a model, by the same rules as a folder's."""
    if not {"config.json"} <= names or not any(name.endswith(".safetensors") and "/" not in name for name in names):
        raise InvalidInputError(f"{uri} has no config.json or no safetensors file, so it is no model we can load.")
    if names.isdisjoint(TOKENIZER_FILES):
        raise InvalidInputError(f"{uri} has no tokenizer; save the model's tokenizer beside it and publish it again.")


def is_local(model: ModelVersion) -> bool:
    """Return whether the model is a folder here rather than a hub id."""
    return Path(model.uri).is_absolute()


def check_present(model: ModelVersion) -> None:
    """Raise `InvalidInputError` when a run could not even start from this model."""
    if is_local(model):
        check_folder(Path(model.uri))


def check_files(model: ModelVersion) -> None:
    """Raise `InvalidInputError` when the files of a model are missing or are not the ones that were stored."""
    check_present(model)
    if artifacts.is_stored(model.uri):
        artifacts.check(model.uri)
        return
    if model.manifest_sha256 is None:
        return
    folder = Path(model.uri)
    try:
        verify_manifest(folder)
    except RecordError as error:
        raise InvalidInputError(f"The files of {model.name} cannot be trusted: {error}") from None
    if file_sha256(folder / "manifest.json") != model.manifest_sha256:
        raise InvalidInputError(f"The files of {model.name} are not those that its run left behind; train it again.")


def _by_name(session: Session, project_id: UUID, name: str) -> ModelVersion | None:
    return session.scalar(select(ModelVersion).where(ModelVersion.project_id == project_id, ModelVersion.name == name))
