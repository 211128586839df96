"""Live chat: a labeler talks with served models, compares two answers at every turn, and goes on from the better one.

Whatever changes a chat locks its row first, so that two tabs come one after the other. A turn is known by its number,
so the same message sent twice makes one turn, and the same choice sent twice one ranking. Lock order: chat → turn →
answer → project.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session, selectinload

from app.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from app.models import Chat, ChatAnswer, ChatModel, ChatTurn, Completion, Project, Ranking, User
from app.services.chat import chat_answers, chat_models
from app.services.labeling import answered, judgements
from app.services.projects import guidelines, memberships, projects
from app.services.projects.questions import Questions
from trainer.records import Message, split_of

MAX_MESSAGE = 8_000
ASKED = Questions(strength="required", reason="optional", line=False, edits=False)
"""What a turn asks: which answer is better and how much, or that they are equal; and why, if the labeler likes."""

_SIDES = random.SystemRandom()


@dataclass(frozen=True)
class ChatLine:
    """A chat in a labeler's list; `opening` is the beginning of its first message, None before there is one."""

    chat_id: UUID
    project_name: str
    state: str
    opening: str | None
    turns: int
    judged: int
    created_at: datetime


def start(session: Session, project: Project, user: User) -> UUID:
    """Begin a chat and return its id; one that was begun here and has no message yet is taken instead.

    Raises `ConflictError` when the project is paused or no model takes part, `ForbiddenError` for somebody who may not
    work in it.
    """
    _check_may_chat(session, project, user)
    if project.id not in chat_models.offering(session, [project.id]):
        raise ConflictError("No model takes part in this project's chats at the moment. Ask an admin.")
    # Two clicks at the same moment: the second waits here and then finds the first one's chat.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"chat:{user.id}:{project.id}", 0))))
    empty = session.scalar(
        select(Chat.id)
        .where(Chat.user_id == user.id, Chat.project_id == project.id, Chat.state == "open", Chat.split.is_(None))
        .limit(1)
    )
    if empty is not None:
        return empty
    chat = Chat(project_id=project.id, user_id=user.id)
    session.add(chat)
    session.flush()
    return chat.id


def access(session: Session, chat_id: UUID, user: User, *, lock: bool = False) -> Chat:
    """Return the labeler's own chat, its row locked on request; 404 for anybody else's."""
    query = select(Chat).where(Chat.id == chat_id, Chat.user_id == user.id)
    chat = session.scalar(query.with_for_update().execution_options(populate_existing=True) if lock else query)
    if chat is None:
        raise NotFoundError("There is no such chat of yours.")
    return chat


def turn(session: Session, chat: Chat, number: int) -> ChatTurn:
    """Return a turn of a chat with its two answers, or raise `NotFoundError`."""
    found = session.scalar(
        select(ChatTurn)
        .where(ChatTurn.chat_id == chat.id, ChatTurn.number == number)
        .options(selectinload(ChatTurn.answers))
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFoundError("There is no such turn in this chat.")
    return found


def turns(session: Session, chat: Chat) -> Sequence[ChatTurn]:
    """Return all turns of a chat in their order, with their answers."""
    query = select(ChatTurn).where(ChatTurn.chat_id == chat.id).order_by(ChatTurn.number)
    return session.scalars(query.options(selectinload(ChatTurn.answers))).all()


def mine(session: Session, user: User, limit: int = 100) -> list[ChatLine]:
    """Return the labeler's chats, the newest first."""
    opening = (
        select(ChatTurn.message).where(ChatTurn.chat_id == Chat.id, ChatTurn.number == 1).correlate(Chat)
    ).scalar_subquery()
    counts = select(func.count()).where(ChatTurn.chat_id == Chat.id).correlate(Chat)
    rows = session.execute(
        select(
            Chat.id,
            Project.name,
            Chat.state,
            func.left(opening, 160),
            counts.scalar_subquery(),
            counts.where(ChatTurn.state == "judged").scalar_subquery(),
            Chat.created_at,
        )
        .join(Project, Project.id == Chat.project_id)
        .where(Chat.user_id == user.id)
        .order_by(Chat.id.desc())
        .limit(limit)
    )
    return [ChatLine(*row) for row in rows]


def say(session: Session, chat_id: UUID, user: User, number: int, text: str) -> ChatTurn:
    """Store the message of a turn and draw the models that answer it; the same message again finds the turn.

    Raises `ConflictError` when another message was sent in this turn, the one before is not decided, the chat has
    ended or has reached its limits, or the project is paused.
    """
    chat = access(session, chat_id, user, lock=True)
    message = _clean(text)
    last = session.scalar(select(ChatTurn).where(ChatTurn.chat_id == chat.id).order_by(ChatTurn.number.desc()).limit(1))
    following = 1 if last is None else last.number + 1
    if number < following:
        stored = turn(session, chat, number)
        if stored.message != message:
            raise ConflictError(
                "Another message was sent in this turn already, perhaps in another tab. Reload the page."
            )
        return stored
    if number > following:
        raise ConflictError("This page is not up to date. Reload it, then send your message.")
    project = projects.get(session, chat.project_id)
    _check_may_chat(session, project, user)
    if chat.state != "open":
        raise ConflictError("This chat has ended. Start another one.")
    if last is not None and last.state == "open":
        raise ConflictError("First say which of the two answers is better; the chat goes on from it.")
    refusal = limit_reached(session, chat, following, len(message))
    if refusal:
        raise ConflictError(refusal)
    if chat.split is None:
        chat.split = split_of((Message("user", message),), project.held_out_fraction)
    models = chat_models.draw(session, project.id, len(chat_answers.SIDES))
    turn_id = session.scalars(
        insert(ChatTurn)
        .values(
            chat_id=chat.id,
            number=number,
            message=message,
            guideline_version_id=guidelines.current(session, project.id).version_id,
        )
        .returning(ChatTurn.id)
    ).one()
    session.execute(
        insert(ChatAnswer),
        [
            {"turn_id": turn_id, "side": side, "chat_model_id": model.id}
            for side, model in zip(chat_answers.SIDES, models, strict=True)
        ],
    )
    return turn(session, chat, number)


def limit_reached(session: Session, chat: Chat, number: int, characters: int = 0) -> str | None:
    """Return the sentence that says why a turn of this number cannot be, or None if it can."""
    limits = chat_models.limits(session, chat.project_id)
    if number > limits.max_turns:
        return f"This chat has had its {limits.max_turns} turns. End it and start another one."
    so_far = sum(len(message["content"]) for message in chat_answers.history(session, chat.id, number))
    if so_far + characters > limits.max_characters:
        return f"This chat has reached its {limits.max_characters:,} characters. End it and start another one."
    return None


def judge(
    session: Session, chat_id: UUID, user: User, number: int, fields: Mapping[str, str], go_on: str = ""
) -> ChatTurn:
    """Store which answer is better, and let the chat go on from it; the same choice again finds the first.

    `fields` are `choice` and `reason`, as in `app.services.labeling.judgements`. After a tie the chat goes on from the
    side that `go_on` names, or from either. Raises `ConflictError` when another choice was stored, or there is
    nothing to compare (yet).
    """
    chat = access(session, chat_id, user, lock=True)
    if go_on not in ("", *chat_answers.SIDES):
        raise InvalidInputError("Choose which of the two answers the chat goes on from.")
    if not fields.get("choice"):
        raise InvalidInputError("Choose which answer is better, or that they are equal.")
    judged = turn(session, chat, number)
    if judged.state == "judged":
        _check_same(session, judged, fields)
        return judged
    _check_open(chat, judged)
    if any(answer.state != "done" for answer in judged.answers):
        raise ConflictError("Both answers have to be complete before you compare them.")
    if chat_answers.are_equal(judged.answers):
        raise ConflictError("Both answers are the same, so there is nothing to compare. Get another one, or go on.")
    messages = [*chat_answers.history(session, chat.id, number), {"role": "user", "content": judged.message}]
    prompt_id = answered.add_prompt(
        session,
        projects.get(session, chat.project_id),
        tuple(Message(item["role"], item["content"]) for item in messages),
        "held_out" if chat.split == "held_out" else "train",
    )
    shown_order = [_completion(session, prompt_id, answer) for answer in judged.answers]
    judgement = judgements.judge(fields, shown_order, ASKED)
    ranking = answered.record(
        session,
        user,
        kind="chat",
        project_id=chat.project_id,
        prompt_id=prompt_id,
        shown_order=shown_order,
        judgement=judgement,
        submit_id=uuid5(judged.id, "choice"),
        guideline_version_id=judged.guideline_version_id,
        seconds=_seconds(session, judged),
    )
    is_tie = len(judgement.groups) == 1
    winner = chat_answers.SIDES[shown_order.index(UUID(judgement.groups[0][0]))]
    _decide(session, judged, go_on or _SIDES.choice(chat_answers.SIDES) if is_tie else winner, ranking.id)
    return turn(session, chat, number)


def pass_on(session: Session, chat_id: UUID, user: User, number: int, side: str) -> ChatTurn:
    """Let the chat go on from one answer without a comparison: the other has failed, or both are the same."""
    chat = access(session, chat_id, user, lock=True)
    passed = turn(session, chat, number)
    if passed.state == "passed" and passed.chosen == side:
        return passed
    _check_open(chat, passed)
    states = {answer.side: answer.state for answer in passed.answers}
    if states.get(side) != "done":
        raise ConflictError("The chat can only go on from an answer that is complete.")
    if set(states.values()) == {"done"} and not chat_answers.are_equal(passed.answers):
        raise ConflictError("Both answers are there: say which of them is better.")
    _decide(session, passed, side, None)
    return turn(session, chat, number)


def retry(session: Session, chat_id: UUID, user: User, number: int, sides: str) -> ChatTurn:
    """Ask anew for the answers that failed, on side `a`, `b` or `both`; of two equal answers, for the second.

    Raises `ConflictError` for an answer that is as it should be.
    """
    chat = access(session, chat_id, user, lock=True)
    tried = turn(session, chat, number)
    _check_open(chat, tried)
    wanted = chat_answers.SIDES if sides == "both" else (sides,)
    failed = [answer.side for answer in tried.answers if answer.side in wanted and answer.state == "failed"]
    if not failed and chat_answers.are_equal(tried.answers):
        failed = [side for side in chat_answers.SIDES if side in wanted][-1:]
    under_way = any(answer.side in wanted and answer.state in ("waiting", "streaming") for answer in tried.answers)
    if not failed and not under_way:  # a second click finds the first one's answer on its way
        raise ConflictError("Only an answer that failed, or that says the same as the other, can be asked for again.")
    if failed:
        chat_answers.ask_again(session, tried, failed)
    return turn(session, chat, number)


def end(session: Session, chat_id: UUID, user: User) -> None:
    """End a chat; a turn that is not decided stays as it is. Once more changes nothing."""
    chat = access(session, chat_id, user, lock=True)
    if chat.state == "open":
        session.execute(update(Chat).where(Chat.id == chat.id).values(state="ended", ended_at=func.clock_timestamp()))


def choice_of(session: Session, judged: ChatTurn) -> str | None:
    """Return the stored choice of a turn as the form has it, such as `a2` or `tie`; None when there is none."""
    ranking = session.get(Ranking, judged.ranking_id) if judged.ranking_id else None
    return None if ranking is None else judgements.as_fields(ranking, ranking.shown_order)["choice"]


def _check_may_chat(session: Session, project: Project, user: User) -> None:
    if project.state != "open":
        raise ConflictError("This project is paused. Come back when it is open again.")
    if memberships.standing(session, project, user) == "screening":
        raise ForbiddenError(
            "Chats open once your trial in this project is over. Answer the tasks on the work page first."
        )


def _check_open(chat: Chat, found: ChatTurn) -> None:
    if found.state != "open":
        raise ConflictError("This turn is decided already, perhaps in another tab. Reload the page.")
    if chat.state != "open":
        raise ConflictError("This chat has ended. Start another one.")


def _check_same(session: Session, judged: ChatTurn, fields: Mapping[str, str]) -> None:
    ranking = session.get_one(Ranking, judged.ranking_id)
    if judgements.judge(fields, ranking.shown_order, ASKED).sha256() != ranking.body_sha256:
        raise ConflictError("Your first choice in this turn is saved; a different one was sent and not stored.")


def _clean(text: str) -> str:
    message = judgements.clean(text, "your message", MAX_MESSAGE)
    if not message:
        raise InvalidInputError("Write a message before you send it; it is empty.")
    return message


def _completion(session: Session, prompt_id: UUID, answer: ChatAnswer) -> UUID:
    model = session.get_one(ChatModel, answer.chat_model_id)
    sampling: dict[str, Any] = {
        "endpoint": model.endpoint,
        "model": model.model,
        "temperature": model.temperature,
        "max_tokens": model.max_tokens,
    }
    return session.scalars(
        insert(Completion)
        .values(
            prompt_id=prompt_id,
            text=answer.text,
            source="model",
            model_version_id=model.model_version_id,
            sampling=sampling,
            finish_reason=answer.finish_reason,
        )
        .returning(Completion.id)
    ).one()


def _seconds(session: Session, judged: ChatTurn) -> float:
    """Return how long both answers had been there, by the database's clock."""
    since = func.coalesce(ChatTurn.shown_at, ChatTurn.created_at)
    query = select(func.extract("epoch", func.clock_timestamp() - since)).where(ChatTurn.id == judged.id)
    return float(session.execute(query).scalar_one())


def _decide(session: Session, decided: ChatTurn, chosen: str, ranking_id: UUID | None) -> None:
    session.execute(
        update(ChatTurn)
        .where(ChatTurn.id == decided.id)
        .values(
            state="passed" if ranking_id is None else "judged",
            chosen=chosen,
            ranking_id=ranking_id,
            decided_at=func.clock_timestamp(),
        )
    )
