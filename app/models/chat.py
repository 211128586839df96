"""Tables of live chat: the models a project lets take part, chats, their turns, and the two answers of each."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy import text as sql  # a column here is named text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, IdPk, Now


class ChatSettings(Base):
    """How long a project's chats may become; a project without a row has the defaults."""

    __tablename__ = "chat_settings"
    __table_args__ = (
        CheckConstraint("max_turns BETWEEN 1 AND 200", name="max_turns"),
        CheckConstraint("max_characters BETWEEN 500 AND 400000", name="max_characters"),
    )

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    max_turns: Mapped[int] = mapped_column(server_default=sql("20"))
    max_characters: Mapped[int] = mapped_column(server_default=sql("40000"))


class ChatModel(Base):
    """A served model that takes part in a project's chats, drawn for each answer in proportion to its weight.

    `endpoint` is a name of the operator's allow-list, or `local`; `model` the endpoint's name for the model, and for a
    local one its name in the registry. Rows are never deleted: answers name the one they came from.
    """

    __tablename__ = "chat_models"
    __table_args__ = (
        UniqueConstraint(
            "project_id", "endpoint", "model", "temperature", "max_tokens", name="uq_chat_models_settings"
        ),
        CheckConstraint("weight BETWEEN 1 AND 100", name="weight"),
        CheckConstraint("temperature >= 0 AND temperature <= 2", name="temperature"),
        CheckConstraint("max_tokens BETWEEN 1 AND 4096", name="max_tokens"),
        CheckConstraint("endpoint <> 'local' OR model_version_id IS NOT NULL", name="local_version"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    endpoint: Mapped[str]
    model: Mapped[str]
    model_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    weight: Mapped[int]
    temperature: Mapped[float]
    max_tokens: Mapped[int]
    active: Mapped[bool] = mapped_column(server_default=sql("true"))
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]


class Chat(Base):
    """A labeler's conversation. `split` follows from its first message: all its turns stand on one side."""

    __tablename__ = "chats"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'ended')", name="state"),
        CheckConstraint("split IN ('train', 'held_out')", name="split"),
        CheckConstraint("(state = 'ended') = (ended_at IS NOT NULL)", name="ended_at"),
        Index("ix_chats_user_project", "user_id", "project_id"),
    )

    id: Mapped[IdPk]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    state: Mapped[str] = mapped_column(server_default=sql("'open'"))
    split: Mapped[str | None]
    created_at: Mapped[Now]
    ended_at: Mapped[datetime | None]


class ChatTurn(Base):
    """A message and what became of its two answers.

    `state` is `open` until the labeler has decided; then `judged`, with the ranking, or `passed`, without a comparison.
    `chosen` is the side that the chat went on from. `shown_at` is when both answers were there to be compared.
    """

    __tablename__ = "chat_turns"
    __table_args__ = (
        UniqueConstraint("chat_id", "number"),
        CheckConstraint("number >= 1", name="number"),
        CheckConstraint("state IN ('open', 'judged', 'passed')", name="state"),
        CheckConstraint("chosen IN ('a', 'b')", name="chosen"),
        CheckConstraint("(state = 'open') = (chosen IS NULL)", name="decided"),
        CheckConstraint("(state = 'judged') = (ranking_id IS NOT NULL)", name="ranking_id"),
    )

    id: Mapped[IdPk]
    chat_id: Mapped[UUID] = mapped_column(ForeignKey("chats.id"))
    number: Mapped[int]
    message: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=sql("'open'"))
    chosen: Mapped[str | None]
    ranking_id: Mapped[UUID | None] = mapped_column(ForeignKey("rankings.id"), unique=True)
    guideline_version_id: Mapped[UUID] = mapped_column(ForeignKey("guideline_versions.id"))
    created_at: Mapped[Now]
    shown_at: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]

    answers: Mapped[list[ChatAnswer]] = relationship(lazy="raise", order_by="ChatAnswer.side")


class ChatAnswer(Base):
    """One side of a turn, and which model was drawn for it; the labeler never learns which.

    While it is `streaming`, one process holds it under `attempt` until `streaming_until`, and keeps that date ahead of
    the clock; an answer whose date has passed was cut off. `text` is what has come so far, also of a `failed` one.
    """

    __tablename__ = "chat_answers"
    __table_args__ = (
        UniqueConstraint("turn_id", "side"),
        CheckConstraint("side IN ('a', 'b')", name="side"),
        CheckConstraint("state IN ('waiting', 'streaming', 'done', 'failed')", name="state"),
        CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name="failure"),
        CheckConstraint("(state = 'streaming') = (streaming_until IS NOT NULL)", name="streaming_until"),
    )

    id: Mapped[IdPk]
    turn_id: Mapped[UUID] = mapped_column(ForeignKey("chat_turns.id"))
    side: Mapped[str]
    chat_model_id: Mapped[UUID] = mapped_column(ForeignKey("chat_models.id"))
    state: Mapped[str] = mapped_column(server_default=sql("'waiting'"))
    attempt: Mapped[int] = mapped_column(server_default=sql("0"))
    text: Mapped[str] = mapped_column(server_default=sql("''"))
    finish_reason: Mapped[str | None]
    failure: Mapped[str | None]
    streaming_until: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    first_text_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
