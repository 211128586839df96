"""What a labeler sees of a chat: the conversation, the two answers of the present turn, and what can be done with it.

Nothing here says which model an answer comes from, how fast it came or why it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy.orm import Session

from app.models import Chat, ChatAnswer, ChatTurn, User
from app.services.chat import chat_answers, chat_models, chats
from app.services.chat.endpoints import SENTENCES, Failure
from app.services.projects import guidelines, projects
from app.services.projects.guidelines import Guideline

Phase = Literal["coming", "failed", "equal", "ready"]


@dataclass(frozen=True)
class ShownAnswer:
    """One side as a labeler sees it; `problem` says why it is not complete, `text` is what came all the same."""

    side: str
    letter: str
    state: str
    text: str
    problem: str


@dataclass(frozen=True)
class PastTurn:
    """A turn that is decided: the message and the answer that the chat went on from."""

    number: int
    message: str
    answer: str
    is_judged: bool


@dataclass(frozen=True)
class PresentTurn:
    """The turn that is not decided.

    Its answers are `coming`; one of them has `failed`; they are `equal`, so there is nothing to compare; or `ready`.
    """

    number: int
    message: str
    answers: tuple[ShownAnswer, ...]
    phase: Phase


@dataclass(frozen=True)
class Filled:
    """What the labeler had entered when the server refused it."""

    message: str = ""
    choice: str = ""
    reason: str = ""
    go_on: str = ""


@dataclass(frozen=True)
class OpenChat:
    """Everything the page of a chat shows. `next_number` is that of the message to be written, None if none can be.

    `refusal` says why no further message can be; it is empty while one can, or while a turn is not decided.
    """

    chat_id: UUID
    project_name: str
    is_open: bool
    past: tuple[PastTurn, ...]
    present: PresentTurn | None
    next_number: int | None
    refusal: str
    max_turns: int
    max_message: int
    guidelines: Guideline
    filled: Filled
    error: str


def open_chat(
    session: Session, chat_id: UUID, user: User, *, filled: Filled | None = None, error: str = ""
) -> OpenChat:
    """Return the labeler's own chat as it is now; raise `NotFoundError` for anybody else's. Writes nothing."""
    chat = chats.access(session, chat_id, user)
    project = projects.get(session, chat.project_id)
    turns = chats.turns(session, chat)
    present = next((_present(turn) for turn in turns if turn.state == "open"), None)
    following = len(turns) + 1
    refusal = ""
    if present is None:
        refusal = _refusal(session, chat, project.state, following)
    can_write = chat.state == "open" and present is None and not refusal
    return OpenChat(
        chat_id=chat.id,
        project_name=project.name,
        is_open=chat.state == "open",
        past=tuple(_past(turn) for turn in turns if turn.state != "open"),
        present=present,
        next_number=following if can_write else None,
        refusal=refusal,
        max_turns=chat_models.limits(session, project.id).max_turns,
        max_message=chats.MAX_MESSAGE,
        guidelines=guidelines.current(session, project.id),
        filled=filled or Filled(),
        error=error,
    )


def _refusal(session: Session, chat: Chat, project_state: str, following: int) -> str:
    if chat.state != "open":
        return "This chat has ended."
    if project_state != "open":
        return "This project is paused. You can go on with this chat when it is open again."
    if chat.project_id not in chat_models.offering(session, [chat.project_id]):
        return "No model takes part in this project's chats at the moment. Ask an admin."
    return chats.limit_reached(session, chat, following) or ""


def _past(turn: ChatTurn) -> PastTurn:
    chosen = next(answer.text for answer in turn.answers if answer.side == turn.chosen)
    return PastTurn(turn.number, turn.message, chosen, turn.state == "judged")


def _present(turn: ChatTurn) -> PresentTurn:
    return PresentTurn(turn.number, turn.message, tuple(map(_shown, turn.answers)), _phase(turn.answers))


def _phase(answers: Sequence[ChatAnswer]) -> Phase:
    states = {answer.state for answer in answers}
    if states & {"waiting", "streaming"}:
        return "coming"
    if "failed" in states:
        return "failed"
    return "equal" if chat_answers.are_equal(answers) else "ready"


def _shown(answer: ChatAnswer) -> ShownAnswer:
    problem = SENTENCES[Failure(answer.failure)] if answer.failure else ""
    return ShownAnswer(answer.side, answer.side.upper(), answer.state, answer.text, problem)
