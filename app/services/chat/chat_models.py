"""Which served models take part in a project's chats, how they are drawn, and how long its chats may become."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import ChatAnswer, ChatModel, ChatSettings, ModelVersion, Project, User
from app.services.accounts import audit
from app.services.training import artifacts, registry
from app.settings import LOCAL_ENDPOINT, get_settings

MAX_NAME = 200
_DRAW = random.SystemRandom()


@dataclass(frozen=True)
class Source:
    """Something that a model can be picked from: `key` is the form's value, `label` what an admin reads.

    With `is_open` the endpoint has models beyond a list, and the admin types the name.
    """

    key: str
    label: str
    is_open: bool = False


@dataclass(frozen=True)
class Line:
    """A model on the settings page; `version` is the registry's name for it, `answers` how many it has given."""

    model: ChatModel
    version: str | None
    answers: int
    is_allowed: bool


@dataclass(frozen=True)
class Limits:
    """How long one chat may become, in turns and in characters of the whole conversation."""

    max_turns: int = 20
    max_characters: int = 40_000


@dataclass(frozen=True)
class NewModel:
    """What an admin decides about a model: a `Source.key`, the name where that is open, and how it is asked."""

    source: str
    name: str
    version_id: UUID | None
    weight: int
    temperature: float
    max_tokens: int


def sources(session: Session, project_id: UUID) -> list[Source]:
    """Return what can be picked: the registry's policies if the local server runs, and the operator's endpoints."""
    found = []
    for name, endpoint in get_settings().allowed_endpoints.items():
        if name == LOCAL_ENDPOINT:
            policies = registry.of_project(session, project_id, "policy")
            found += [
                Source(f"{name}:{policy.id}", f"{policy.name} ({policy.state}), served here") for policy in policies
            ]
        elif endpoint.models is None:
            found.append(Source(f"{name}:", f"{name}: a model by its name", is_open=True))
        else:
            found += [Source(f"{name}:{model}", f"{name}: {model}") for model in endpoint.models]
    return found


def add(session: Session, project: Project, user: User, new: NewModel) -> ChatModel:
    """Let a model take part; one that was taken out before comes back. The same again changes its weight.

    Raises `InvalidInputError` for a source that the allow-list or the registry does not have.
    """
    endpoint, _, picked = new.source.partition(":")
    offered = {source.key: source for source in sources(session, project.id)}
    source = offered.get(new.source)
    if source is None:
        raise InvalidInputError("Choose one of the models offered; the operator decides which servers there are.")
    version_id = new.version_id
    if endpoint == LOCAL_ENDPOINT:
        version = registry.get(session, UUID(picked))
        registry.check_files(version)
        version_id, name = version.id, version.name
    else:
        name = new.name.strip() if source.is_open else picked
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise InvalidInputError("Give the name that the endpoint has for the model.")
        if version_id is not None:
            _check_version(session, project, version_id)
    values = {
        "project_id": project.id,
        "endpoint": endpoint,
        "model": name,
        "model_version_id": version_id,
        "weight": new.weight,
        "temperature": new.temperature,
        "max_tokens": new.max_tokens,
        "created_by": user.id,
    }
    model = session.scalars(
        upsert(ChatModel)
        .values(values)
        .on_conflict_do_update(
            constraint="uq_chat_models_settings",
            set_={"weight": new.weight, "active": True},
        )
        .returning(ChatModel),
        execution_options={"populate_existing": True},
    ).one()
    audit.record(session, user, "chat_model.added", "chat_model", model.id, endpoint=endpoint, model=name)
    return model


def set_weight(session: Session, model: ChatModel, user: User, weight: int) -> None:
    """Draw a model more or less often from now on."""
    session.execute(update(ChatModel).where(ChatModel.id == model.id).values(weight=weight))
    audit.record(session, user, "chat_model.weighted", "chat_model", model.id, weight=weight)


def remove(session: Session, model: ChatModel, user: User) -> None:
    """Take a model out of later turns; its answers stay, and so does the row that they name."""
    session.execute(update(ChatModel).where(ChatModel.id == model.id).values(active=False))
    audit.record(session, user, "chat_model.removed", "chat_model", model.id)


def get(session: Session, project_id: UUID, model_id: UUID) -> ChatModel:
    """Return a model of this project, or raise `NotFoundError`."""
    model = session.get(ChatModel, model_id)
    if model is None or model.project_id != project_id:
        raise NotFoundError("There is no such chat model in this project.")
    return model


def listed(session: Session, project_id: UUID) -> list[Line]:
    """Return the models that take part, in the order they came, with the answers they have given."""
    answers = (
        select(ChatAnswer.chat_model_id, func.count().label("count"))
        .where(ChatAnswer.state == "done")
        .group_by(ChatAnswer.chat_model_id)
        .subquery()
    )
    rows = session.execute(
        select(ChatModel, ModelVersion.name, func.coalesce(answers.c.count, 0))
        .outerjoin(ModelVersion, ModelVersion.id == ChatModel.model_version_id)
        .outerjoin(answers, answers.c.chat_model_id == ChatModel.id)
        .where(ChatModel.project_id == project_id, ChatModel.active)
        .order_by(ChatModel.id)
    )
    return [Line(model, version, count, is_allowed(model)) for model, version, count in rows]


def is_allowed(model: ChatModel) -> bool:
    """Return whether the operator's allow-list still has the model; it may have changed since the row was made."""
    endpoint = get_settings().allowed_endpoints.get(model.endpoint)
    return endpoint is not None and (endpoint.models is None or model.model in endpoint.models)


def offering(session: Session, project_ids: Collection[UUID]) -> set[UUID]:
    """Return those of the projects in which a chat can be started: they have an active model that is allowed."""
    models = session.scalars(select(ChatModel).where(ChatModel.project_id.in_(project_ids), ChatModel.active))
    return {model.project_id for model in models if is_allowed(model)}


def draw(session: Session, project_id: UUID, count: int = 2) -> Sequence[ChatModel]:
    """Return so many models, each drawn by weight and apart from the others, so that one may come twice.

    Raises `ConflictError` when none takes part at the moment.
    """
    models = [
        model
        for model in session.scalars(select(ChatModel).where(ChatModel.project_id == project_id, ChatModel.active))
        if is_allowed(model)
    ]
    if not models:
        raise ConflictError("No model takes part in this project's chats at the moment. Ask an admin.")
    return _DRAW.choices(models, weights=[model.weight for model in models], k=count)


def address(session: Session, model: ChatModel) -> str:
    """Return the name by which the endpoint knows the model; the local server knows models by where they lie."""
    if model.endpoint == LOCAL_ENDPOINT and model.model_version_id is not None:
        uri = registry.get(session, model.model_version_id).uri
        return str(artifacts.local_or_soon(uri)) if artifacts.is_stored(uri) else uri
    return model.model


def limits(session: Session, project_id: UUID) -> Limits:
    """Return how long this project's chats may become."""
    row = session.get(ChatSettings, project_id)
    return Limits() if row is None else Limits(row.max_turns, row.max_characters)


def set_limits(session: Session, project: Project, user: User, new: Limits) -> None:
    """Change how long chats may become, those under way included."""
    values = {"max_turns": new.max_turns, "max_characters": new.max_characters}
    session.execute(
        upsert(ChatSettings)
        .values(project_id=project.id, **values)
        .on_conflict_do_update(index_elements=[ChatSettings.project_id], set_=values)
    )
    session.expire_all()
    audit.record(session, user, "chat.limited", "project", project.id, **values)


def _check_version(session: Session, project: Project, version_id: UUID) -> None:
    version = session.get(ModelVersion, version_id)
    if version is None or version.project_id != project.id or version.kind != "policy":
        raise InvalidInputError("Choose a policy of this project as the version that the endpoint serves.")
