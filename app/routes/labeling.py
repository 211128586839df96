"""The labeler's pages: what waits, one task at a time, and the two answers a task can get.

    POST /work/{project}/next                    kind=ranking|demonstration → 303 to the leased assignment
    POST /work/assignments/{id}/ranking          submit_id, rank_A … rank_I: 1 is best, equal numbers are a tie
    POST /work/assignments/{id}/demonstration    submit_id, text
    POST /work/assignments/{id}/skip             reason

Each of the last three answers with the next task: a 303 to it, or for htmx its part of the page in the same response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Request
from starlette.responses import Response

from app.auth import SignedIn, page_router
from app.db import SessionDep
from app.done import DONE
from app.errors import ConflictError, InvalidInputError, PlackettError
from app.forms import FormModel, Submitted, form_of
from app.models import Assignment, User
from app.services import assignments, demonstrations, progress, projects, rankings, work
from app.services.progress import WorkLine
from app.services.rankings import Stored
from app.templating import is_htmx, redirect, render

router = page_router("/work")

Fields = list[tuple[str, str]]


@dataclass(frozen=True)
class WorkPage:
    """Context of `labeling/work.html`."""

    lines: list[WorkLine]
    many: int


class NextForm(FormModel):
    """Which kind of task to take."""

    kind: Literal["ranking", "demonstration"] = "ranking"


class SkipForm(FormModel):
    """Why a task is given back."""

    reason: str = ""


async def sent_fields(request: Request) -> Fields:
    """Return the form's text fields in their order, repeated ones too, without the token against forgery."""
    form = await request.form()
    return [(key, value) for key, value in form.multi_items() if isinstance(value, str) and key != "csrf_token"]


SentFields = Annotated[Fields, Depends(sent_fields)]


@router.get("")
def home(request: Request, user: SignedIn, session: SessionDep) -> Response:
    """Show what waits for this labeler in each project."""
    return render(request, "labeling/work.html", WorkPage(progress.my_work(session, user), progress.MANY))


@router.post("/{project_id}/next")
def take_next(
    project_id: UUID,
    user: SignedIn,
    session: SessionDep,
    submitted: Annotated[Submitted[NextForm], Depends(form_of(NextForm))],
) -> Response:
    """Lease a task, or give back the one the labeler holds already."""
    project = projects.get(session, project_id)
    if submitted.data is None:
        raise InvalidInputError("Choose what to do: rank answers or write one.")
    taken = assignments.claim(session, project, user, submitted.data.kind)
    if taken is None:
        return redirect("/work", done="none-left" if project.state == "open" else "is-paused")
    return redirect(f"/work/assignments/{taken}")


@router.get("/assignments/{assignment_id}")
def show(request: Request, assignment_id: UUID, user: SignedIn, session: SessionDep) -> Response:
    """Show a task of the labeler's own: to be answered, or as it was answered."""
    return render(request, "labeling/assignment.html", work.open_task(session, assignment_id, user))


@router.post("/assignments/{assignment_id}/ranking")
def submit_ranking(
    request: Request, assignment_id: UUID, user: SignedIn, session: SessionDep, fields: SentFields
) -> Response:
    """Store a ranking and go on."""
    ranks: dict[str, int] = {}
    try:
        submit_id, others = _submit_id(fields)
        ranks = _ranks(others)
        stored = rankings.submit(session, assignment_id, user, submit_id, ranks)
    except (InvalidInputError, ConflictError) as error:
        return _refused(request, session, user, assignment_id, error, fields)
    return _go_on(request, session, user, stored.assignment, _saved(stored))


@router.post("/assignments/{assignment_id}/demonstration")
def submit_demonstration(
    request: Request, assignment_id: UUID, user: SignedIn, session: SessionDep, fields: SentFields
) -> Response:
    """Store a written answer and go on."""
    try:
        submit_id, others = _submit_id(fields)
        stored = demonstrations.submit(session, assignment_id, user, submit_id, _text(others))
    except (InvalidInputError, ConflictError) as error:
        return _refused(request, session, user, assignment_id, error, fields)
    return _go_on(request, session, user, stored.assignment, _saved(stored))


@router.post("/assignments/{assignment_id}/skip")
def skip(
    request: Request,
    assignment_id: UUID,
    user: SignedIn,
    session: SessionDep,
    submitted: Annotated[Submitted[SkipForm], Depends(form_of(SkipForm))],
) -> Response:
    """Give a task back with a reason and go on."""
    try:
        skipped = assignments.skip(session, assignment_id, user, submitted.values.get("reason", ""))
    except (InvalidInputError, ConflictError) as error:
        return _refused(request, session, user, assignment_id, error, [])
    return _go_on(request, session, user, skipped, "skipped")


def _go_on(request: Request, session: SessionDep, user: User, finished: Assignment, done: str) -> Response:
    """Lease the next task of the same kind in this very transaction, and answer with it."""
    project = projects.get(session, finished.task.project_id)
    kind: assignments.TaskKind = "ranking" if finished.task.kind == "ranking" else "demonstration"
    following = assignments.claim(session, project, user, kind)
    if following is None:
        answer = redirect("/work", done=done)
        return Response(headers={"HX-Redirect": answer.headers["location"]}) if is_htmx(request) else answer
    address = f"/work/assignments/{following}"
    if not is_htmx(request):
        return redirect(address, done=done)
    tone = "wait" if done == "saved-late" else "good"
    task = work.open_task(session, following, user, notice=DONE[done], notice_tone=tone)
    return render(request, "labeling/_task.html", task, headers={"HX-Push-Url": address})


def _refused(
    request: Request, session: SessionDep, user: User, assignment_id: UUID, error: PlackettError, fields: Fields
) -> Response:
    """Show the task again with the reason and with what was entered; after a conflict htmx leaves the page as it is."""
    sent = dict(fields)
    filled = {
        key.removeprefix("rank_"): int(value)
        for key, value in sent.items()
        if key.startswith("rank_") and value.isdecimal() and len(value) == 1
    }
    task = work.open_task(
        session,
        assignment_id,
        user,
        filled_ranks=filled or None,
        filled_text=sent.get("text"),
        error=error.message,
    )
    if is_htmx(request) and not isinstance(error, InvalidInputError):
        raise error
    return render(
        request, "labeling/_task.html" if is_htmx(request) else "labeling/assignment.html", task, error.status
    )


def _saved(stored: Stored) -> str:
    return "saved" if stored.not_counted_reason is None else "saved-late"


def _submit_id(fields: Fields) -> tuple[UUID, Fields]:
    """Return the form's submit id and the other fields; raise `InvalidInputError` unless there is exactly one."""
    sent = [value for key, value in fields if key == "submit_id"]
    others = [(key, value) for key, value in fields if key != "submit_id"]
    try:
        (value,) = sent
        return UUID(value), others
    except ValueError:
        raise InvalidInputError("The form has lost its number. Reload the page and send it again.") from None


def _text(fields: Fields) -> str:
    """Return the written answer; raise `InvalidInputError` unless the form holds it once and nothing else."""
    if [key for key, _ in fields] != ["text"]:
        raise InvalidInputError("The form does not hold exactly one answer. Reload the page and send it again.")
    return fields[0][1]


def _ranks(fields: Fields) -> dict[str, int]:
    """Return the ranks by letter; raise `InvalidInputError` for a field that is none, a repeated one, or no number."""
    ranks: dict[str, int] = {}
    for key, value in fields:
        letter = key.removeprefix("rank_")
        if not key.startswith("rank_") or len(letter) != 1:
            raise InvalidInputError(
                "The form holds a field that this page does not have. Reload the page and try again."
            )
        if letter in ranks:
            raise InvalidInputError(f"Answer {letter} has two ranks; give it one.")
        if not value.isdecimal() or len(value) > 1:
            raise InvalidInputError(f"The rank of answer {letter} is not a number from 1 to 9.")
        ranks[letter] = int(value)
    return ranks
