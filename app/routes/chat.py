"""Live chat, as a labeler has it: two answers at every turn.

    POST /work/chats                          project_id → 303 to the chat
    POST /work/chats/{id}/turns/{n}           message
    POST /work/chats/{id}/turns/{n}/answers   gets the answers: lines of JSON as they come, or a 303 in the end
    POST /work/chats/{id}/turns/{n}/choice    choice (a3 … b3, tie, both_good, both_bad), reason, go_on
    POST /work/chats/{id}/turns/{n}/retry     sides (a, b, both)
    POST /work/chats/{id}/turns/{n}/pass      side: go on from it without a comparison
    POST /work/chats/{id}/end

All but the stream answer with the chat as it is then: a 303 to it, or for htmx its part of the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Path, Request
from starlette.responses import Response, StreamingResponse

from app import latency
from app.auth import SignedIn, page_router
from app.db import SessionDep
from app.errors import InvalidInputError, PlackettError
from app.forms import FormModel, Submitted, form_of
from app.models import User
from app.services.chat import chat_answers, chat_view, chats
from app.services.chat.chat_view import Filled, OpenChat
from app.services.chat.chats import ChatLine
from app.services.projects import projects
from app.streams import Later, Streams
from app.templating import is_htmx, redirect, render

router = page_router("/work/chats")

PLAIN_WAIT_SECONDS = 60.0
"""How long a browser without JavaScript waits for the answers before it is shown what has come."""

STREAM = "application/x-ndjson"
Turn = Annotated[int, Path(ge=1, le=10_000)]


class StartForm(FormModel):
    """In which project to chat."""

    project_id: UUID


class MessageForm(FormModel):
    """What the labeler says. The service trims and limits it."""

    message: str = ""


class ChoiceForm(FormModel):
    """Which answer is better, why, and after a tie which one the chat goes on from."""

    choice: str = ""
    reason: str = ""
    go_on: str = ""


class RetryForm(FormModel):
    """Which answers to get again."""

    sides: Literal["a", "b", "both"]


class PassForm(FormModel):
    """Which answer the chat goes on from."""

    side: Literal["a", "b"]


class NoForm(FormModel):
    """A button without fields."""


@dataclass(frozen=True)
class ChatsPage:
    """Context of `chat/list.html`."""

    chats: list[ChatLine]


@router.get("")
def list_chats(request: Request, user: SignedIn, session: SessionDep) -> Response:
    """List the labeler's chats."""
    return render(request, "chat/list.html", ChatsPage(chats.mine(session, user)))


@router.post("")
def start(
    user: SignedIn, session: SessionDep, submitted: Annotated[Submitted[StartForm], Depends(form_of(StartForm))]
) -> Response:
    """Begin a chat."""
    if submitted.data is None:
        raise InvalidInputError("Choose a project on the work page.")
    project = projects.get(session, submitted.data.project_id)
    return redirect(f"/work/chats/{chats.start(session, project, user)}")


@router.get("/{chat_id}")
def show(request: Request, chat_id: UUID, user: SignedIn, session: SessionDep) -> Response:
    """Show a chat of the labeler's own; to htmx its part of the page."""
    return _render(request, chat_view.open_chat(session, chat_id, user))


@router.post("/{chat_id}/turns/{number}")
def say(
    request: Request,
    chat_id: UUID,
    number: Turn,
    user: SignedIn,
    session: SessionDep,
    submitted: Annotated[Submitted[MessageForm], Depends(form_of(MessageForm))],
) -> Response:
    """Store a message; its answers are got next."""
    message = submitted.values.get("message", "")

    def act() -> None:
        chats.say(session, chat_id, user, number, message)

    return _done(request, session, user, chat_id, act, Filled(message=message))


@router.post("/{chat_id}/turns/{number}/answers")
def get_answers(request: Request, chat_id: UUID, number: Turn, user: SignedIn, session: SessionDep) -> Response:
    """Get the answers of a turn, or read along if they are on their way; no session is held while they come."""
    turn = chats.turn(session, chats.access(session, chat_id, user), number)
    claims = chat_answers.claim(session, turn)
    streams: Streams = request.app.state.streams
    if STREAM in request.headers.get("accept", ""):
        # A proxy that collects the answer first would make a stream of it no more.
        return StreamingResponse(
            streams.follow(turn.id, claims), media_type=STREAM, headers={"X-Accel-Buffering": "no"}
        )

    async def when_there() -> Response:
        await streams.wait(turn.id, claims, PLAIN_WAIT_SECONDS)
        return redirect(f"/work/chats/{chat_id}")

    return Later(when_there)


@router.post("/{chat_id}/turns/{number}/choice")
def choose(
    request: Request,
    chat_id: UUID,
    number: Turn,
    user: SignedIn,
    session: SessionDep,
    submitted: Annotated[Submitted[ChoiceForm], Depends(form_of(ChoiceForm))],
) -> Response:
    """Store which answer is better; the chat goes on from it."""
    filled = Filled(**{name: submitted.values.get(name, "") for name in ChoiceForm.model_fields})

    def act() -> None:
        fields = {"choice": filled.choice, "reason": filled.reason}
        chats.judge(session, chat_id, user, number, fields, filled.go_on)
        latency.note_submit(session)

    return _done(request, session, user, chat_id, act, filled)


@router.post("/{chat_id}/turns/{number}/retry")
def retry(
    request: Request,
    chat_id: UUID,
    number: Turn,
    user: SignedIn,
    session: SessionDep,
    submitted: Annotated[Submitted[RetryForm], Depends(form_of(RetryForm))],
) -> Response:
    """Ask again for answers that failed."""

    def act() -> None:
        if submitted.data is None:
            raise InvalidInputError("Choose which answer to get again.")
        chats.retry(session, chat_id, user, number, submitted.data.sides)

    return _done(request, session, user, chat_id, act)


@router.post("/{chat_id}/turns/{number}/pass")
def pass_on(
    request: Request,
    chat_id: UUID,
    number: Turn,
    user: SignedIn,
    session: SessionDep,
    submitted: Annotated[Submitted[PassForm], Depends(form_of(PassForm))],
) -> Response:
    """Go on from one answer without a comparison."""

    def act() -> None:
        if submitted.data is None:
            raise InvalidInputError("Choose which answer the chat goes on from.")
        chats.pass_on(session, chat_id, user, number, submitted.data.side)

    return _done(request, session, user, chat_id, act)


@router.post("/{chat_id}/end")
def end(
    chat_id: UUID,
    user: SignedIn,
    session: SessionDep,
    _submitted: Annotated[Submitted[NoForm], Depends(form_of(NoForm))],
) -> Response:
    """End a chat."""
    chats.end(session, chat_id, user)
    return redirect("/work/chats", done="chat-ended")


def _done(
    request: Request,
    session: SessionDep,
    user: User,
    chat_id: UUID,
    act: Callable[[], None],
    filled: Filled | None = None,
) -> Response:
    """Act, and answer with the chat as it is then; after a refusal with the reason and what had been entered."""
    try:
        # What is refused writes nothing, although the page is then made in the same transaction.
        with session.begin_nested():
            act()
    except PlackettError as error:
        if is_htmx(request) and not isinstance(error, InvalidInputError):
            raise
        page = chat_view.open_chat(session, chat_id, user, filled=filled, error=error.message)
        return _render(request, page, error.status)
    if not is_htmx(request):
        return redirect(f"/work/chats/{chat_id}")
    return _render(request, chat_view.open_chat(session, chat_id, user))


def _render(request: Request, page: OpenChat, status: int = 200) -> Response:
    return render(request, "chat/_chat.html" if is_htmx(request) else "chat/chat.html", page, status)
