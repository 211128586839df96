"""The two answers of a turn as they come: taken by one process at a time, kept up to date, finished or failed.

Every step is one guarded UPDATE under the `attempt` that the claim has raised. No row updated means that another
process has the answer now; whoever finds that stops and writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from app.models import ChatAnswer, ChatModel, ChatTurn
from app.services.chat import chat_models
from app.services.chat.endpoints import Failure, Question

LEASE_SECONDS = 20
SIDES = ("a", "b")


@dataclass(frozen=True)
class Claim:
    """An answer that this process has to get now, and what to ask for it."""

    answer_id: UUID
    turn_id: UUID
    side: str
    attempt: int
    question: Question


@dataclass(frozen=True)
class Progress:
    """How far one side is, as a reader without the model's name may know it."""

    side: str
    attempt: int
    text: str
    over: bool


def is_cut() -> ColumnElement[bool]:
    """Return the condition that the process which had an answer is gone."""
    return (ChatAnswer.state == "streaming") & (ChatAnswer.streaming_until < func.clock_timestamp())


def claim(session: Session, turn: ChatTurn) -> list[Claim]:
    """Take those answers of a turn that wait, or whose process is gone, and return what to ask for each."""
    taken = session.execute(
        update(ChatAnswer)
        .where(ChatAnswer.turn_id == turn.id, (ChatAnswer.state == "waiting") | is_cut())
        .values(
            state="streaming",
            attempt=ChatAnswer.attempt + 1,
            text="",
            started_at=func.clock_timestamp(),
            first_text_at=None,
            finished_at=None,
            streaming_until=func.clock_timestamp() + timedelta(seconds=LEASE_SECONDS),
        )
        .returning(ChatAnswer.id, ChatAnswer.side, ChatAnswer.attempt, ChatAnswer.chat_model_id)
    ).all()
    if not taken:
        return []
    messages = [*history(session, turn.chat_id, turn.number), {"role": "user", "content": turn.message}]
    return [
        Claim(row.id, turn.id, row.side, row.attempt, _question(session, row.chat_model_id, messages)) for row in taken
    ]


def history(session: Session, chat_id: UUID, before: int) -> list[dict[str, str]]:
    """Return the conversation before a turn: each message, and the answer that the chat went on from."""
    rows = session.execute(
        select(ChatTurn.message, ChatAnswer.text)
        .join(ChatAnswer, (ChatAnswer.turn_id == ChatTurn.id) & (ChatAnswer.side == ChatTurn.chosen))
        .where(ChatTurn.chat_id == chat_id, ChatTurn.number < before)
        .order_by(ChatTurn.number)
    )
    return [
        {"role": role, "content": text}
        for row in rows
        for role, text in (("user", row.message), ("assistant", row.text))
    ]


def keep(session: Session, claim: Claim, text: str) -> bool:
    """Store what has come so far and hold the answer for longer; return False if it is another's now."""
    return _write(
        session,
        claim,
        text=text,
        first_text_at=func.coalesce(ChatAnswer.first_text_at, func.clock_timestamp()) if text else None,
        streaming_until=func.clock_timestamp() + timedelta(seconds=LEASE_SECONDS),
    )


def finish(session: Session, claim: Claim, text: str, finish_reason: str) -> bool:
    """Store a complete answer; once both are there, the labeler's time to compare them begins."""
    # The turn is locked first: of two answers that finish at once, the later one must see the earlier.
    session.execute(select(ChatTurn.id).where(ChatTurn.id == claim.turn_id).with_for_update())
    done = _write(
        session,
        claim,
        state="done",
        text=text,
        finish_reason=finish_reason,
        finished_at=func.clock_timestamp(),
        first_text_at=func.coalesce(ChatAnswer.first_text_at, func.clock_timestamp()),
        streaming_until=None,
    )
    if done:
        other = aliased(ChatAnswer)
        session.execute(
            update(ChatTurn)
            .where(ChatTurn.id == claim.turn_id, ~exists().where(other.turn_id == ChatTurn.id, other.state != "done"))
            .values(shown_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )
    return done


def fail(session: Session, claim: Claim, text: str, failure: Failure) -> bool:
    """Store that an answer failed, with what had come of it."""
    return _write(
        session,
        claim,
        state="failed",
        text=text,
        failure=failure.value,
        finished_at=func.clock_timestamp(),
        streaming_until=None,
    )


def ask_again(session: Session, turn: ChatTurn, sides: Collection[str]) -> None:
    """Let answers of a locked turn wait anew. The same model is asked: the draw stands."""
    session.execute(update(ChatTurn).where(ChatTurn.id == turn.id).values(shown_at=None))
    session.execute(
        update(ChatAnswer)
        .where(ChatAnswer.turn_id == turn.id, ChatAnswer.side.in_(sides))
        .values(state="waiting", text="", failure=None, finish_reason=None, streaming_until=None, finished_at=None)
    )


def progress(session: Session, turn_id: UUID) -> Sequence[Progress]:
    """Return how far both sides are, for a reader in a process that is not getting them itself."""
    rows = session.execute(
        select(ChatAnswer.side, ChatAnswer.attempt, ChatAnswer.text, ChatAnswer.state, is_cut().label("cut"))
        .where(ChatAnswer.turn_id == turn_id)
        .order_by(ChatAnswer.side)
    )
    return [
        Progress(row.side, row.attempt, row.text, over=row.cut or row.state in ("done", "failed", "waiting"))
        for row in rows
    ]


def are_equal(answers: Collection[ChatAnswer]) -> bool:
    """Return whether both answers are there and say the same, so that there is nothing to compare."""
    return all(answer.state == "done" for answer in answers) and len({answer.text.strip() for answer in answers}) == 1


def _question(session: Session, model_id: UUID, messages: Sequence[Mapping[str, str]]) -> Question:
    model = session.get_one(ChatModel, model_id)
    name = chat_models.address(session, model)
    return Question(model.endpoint, name, messages, model.temperature, model.max_tokens)


def _write(session: Session, claim: Claim, **values: object) -> bool:
    written = session.execute(
        update(ChatAnswer)
        .where(ChatAnswer.id == claim.answer_id, ChatAnswer.attempt == claim.attempt, ChatAnswer.state == "streaming")
        .values(**values)
        .returning(ChatAnswer.id)
        .execution_options(synchronize_session=False)
    )
    return written.first() is not None
