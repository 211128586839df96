"""The labeler's pages: what waits, one task at a time, and what can be done with it.

    POST /work/{project}/next                    kind=ranking|demonstration → 303 to the leased assignment
    POST /work/assignments/{id}/ranking          submit_id and the board's fields, see `services.labeling.judgements`
    POST /work/assignments/{id}/demonstration    submit_id, text
    POST /work/assignments/{id}/skip             reason
    POST /work/assignments/{id}/undo             takes the answer back that was just sent
    POST /work/assignments/{id}/flag             reason, note
    POST /work/assignments/{id}/{draft,keep,ahead,give-back}    what the page does by itself, with JavaScript

Ranking, demonstration and skip answer with the next task: a 303 to it, or for htmx its part of the page in the same
response. A page that has fetched that very task ahead says so in the header `Plackett-Ahead`; then the answer's header
`Plackett-Shown` names it, and the body holds only what is new beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app import latency
from app.auth import SignedIn, page_router
from app.db import SessionDep
from app.done import DONE
from app.error_pages import error_response
from app.errors import ConflictError, ForbiddenError, InvalidInputError, PlackettError
from app.forms import FormModel, Submitted, form_of
from app.models import Assignment, User
from app.services.chat import chat_models, chats
from app.services.labeling import assignments, demonstrations, drafts, flags, progress, rankings, work
from app.services.labeling.progress import WorkLine
from app.services.labeling.rankings import Stored
from app.services.labeling.work import Notice, OpenTask
from app.services.projects import guidelines, projects
from app.templating import is_htmx, redirect, render

router = page_router("/work")

AHEAD = "Plackett-Ahead"
"""Names the assignment that a page holds ready: in the answer that hands it over, and in what the page sends later."""

SHOWN = "Plackett-Shown"
"""Names the assignment that the page is to show from what it holds ready."""

Fields = list[tuple[str, str]]
Submit = Callable[[Session, UUID, User, UUID, Mapping[str, str]], Stored]


@dataclass(frozen=True)
class WorkPage:
    """Context of `labeling/work.html`."""

    lines: list[WorkLine]
    many: int
    chatting: set[UUID]
    has_chats: bool
    notice: Notice


class NextForm(FormModel):
    """Which kind of task to take."""

    kind: Literal["ranking", "demonstration"] = "ranking"


class SkipForm(FormModel):
    """Why a task is given back."""

    reason: str = ""


class FlagForm(FormModel):
    """What is wrong with a task."""

    reason: str = ""
    note: str = ""


async def sent_fields(request: Request) -> Fields:
    """Return the form's text fields in their order, repeated ones too, without the token against forgery."""
    form = await request.form()
    return [(key, value) for key, value in form.multi_items() if isinstance(value, str) and key != "csrf_token"]


SentFields = Annotated[Fields, Depends(sent_fields)]


@router.get("")
def home(request: Request, user: SignedIn, session: SessionDep, after: UUID | None = None) -> Response:
    """Show what waits for this labeler in each project, and the way back to the answer they come from."""
    lines, notice = progress.my_work(session, user), work.offer_undo(session, after, user)
    chatting = chat_models.offering(session, [line.project.id for line in lines if line.project.state == "open"])
    page = WorkPage(lines, progress.MANY, chatting, bool(chats.mine(session, user, limit=1)), notice)
    return render(request, "labeling/work.html", page)


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
def show(
    request: Request,
    assignment_id: UUID,
    user: SignedIn,
    session: SessionDep,
    change: bool = False,
    after: UUID | None = None,
) -> Response:
    """Show a task of the labeler's own: to be answered, as it was answered, or with its answer to be changed.

    `after` is the task whose answer led here: for some seconds it can be taken back.
    """
    notice = work.offer_undo(session, after, user)
    return _page(request, work.open_task(session, assignment_id, user, changing=change, notice=notice))


@router.post("/assignments/{assignment_id}/ranking")
def submit_ranking(
    request: Request, assignment_id: UUID, user: SignedIn, session: SessionDep, sent: SentFields
) -> Response:
    """Store a ranking and go on."""
    return _submit(request, session, user, assignment_id, sent, rankings.submit)


@router.post("/assignments/{assignment_id}/demonstration")
def submit_demonstration(
    request: Request, assignment_id: UUID, user: SignedIn, session: SessionDep, sent: SentFields
) -> Response:
    """Store a written answer and go on."""
    return _submit(request, session, user, assignment_id, sent, demonstrations.submit)


@router.post("/assignments/{assignment_id}/undo")
def undo(request: Request, assignment_id: UUID, user: SignedIn, session: SessionDep) -> Response:
    """Take the answer back that was just sent, and show its task again as it was filled in."""
    kind = assignments.access_assignment(session, assignment_id, user).task.kind
    taken_back = (rankings if kind == "ranking" else demonstrations).undo(session, assignment_id, user)
    address = f"/work/assignments/{taken_back.id}"
    if not is_htmx(request):
        return redirect(address, done="taken-back")
    task = work.open_task(session, taken_back.id, user, notice=Notice(DONE["taken-back"], "wait"))
    return render(request, "labeling/_task.html", task, headers={"HX-Push-Url": address})


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
        return _refused(request, session, user, assignment_id, error, {})
    return _go_on(request, session, user, skipped, "skipped")


@router.post("/assignments/{assignment_id}/flag")
def flag(
    request: Request,
    assignment_id: UUID,
    user: SignedIn,
    session: SessionDep,
    submitted: Annotated[Submitted[FlagForm], Depends(form_of(FlagForm))],
) -> Response:
    """Tell the reviewers that something is wrong with a task; it stays the labeler's, to answer or to skip."""
    values = submitted.values
    try:
        flags.add(session, assignment_id, user, values.get("reason", ""), values.get("note", ""))
    except InvalidInputError as error:
        if is_htmx(request):  # The board beside it stays as it is, whatever is filled in there.
            return error_response(request, error.status, error.message, headers={"HX-Reswap": "afterbegin"})
        return _refused(request, session, user, assignment_id, error, {})
    if is_htmx(request):
        return render(request, "labeling/_flagged.html")
    return redirect(f"/work/assignments/{assignment_id}", done="flagged")


@router.post("/assignments/{assignment_id}/draft")
def keep_draft(assignment_id: UUID, user: SignedIn, session: SessionDep, sent: SentFields) -> Response:
    """Keep what is filled in so far, unless the task is answered already."""
    drafts.keep(session, assignment_id, user, dict(field for field in sent if field[0] != "submit_id"))
    return Response(status_code=204)


@router.post("/assignments/{assignment_id}/keep")
def keep_lease(assignment_id: UUID, user: SignedIn, session: SessionDep) -> Response:
    """Extend the lease of a page that is being worked on: {"until": time}, null once the lease is gone."""
    until = assignments.keep(session, assignment_id, user)
    return JSONResponse({"until": until.isoformat() if until else None})


@router.post("/assignments/{assignment_id}/ahead")
def take_ahead(request: Request, assignment_id: UUID, user: SignedIn, session: SessionDep) -> Response:
    """Lease the task after this one and answer with its part of the page, so that it is at hand; 204: there is none."""
    assignment = assignments.access_assignment(session, assignment_id, user)
    following = _claim(session, user, assignment, ahead_of=assignment.id) if assignment.state == "leased" else None
    if following is None:
        return Response(status_code=204)
    task = work.open_task(session, following, user)
    return render(request, "labeling/_task.html", task, headers={AHEAD: str(following)})


@router.post("/assignments/{assignment_id}/give-back")
def give_back(assignment_id: UUID, user: SignedIn, session: SessionDep) -> Response:
    """Free a task that was taken ahead and not looked at; the page calls it when it is left."""
    assignments.give_back(session, assignment_id, user)
    return Response(status_code=204)


def _submit(
    request: Request, session: SessionDep, user: User, assignment_id: UUID, sent: Fields, store: Submit
) -> Response:
    fields: dict[str, str] = {}
    try:
        submit_id, fields = _read(sent)
        stored = store(session, assignment_id, user, submit_id, fields)
        latency.note_submit(session)
    except (InvalidInputError, ConflictError) as error:
        return _refused(request, session, user, assignment_id, error, dict(sent))
    return _go_on(request, session, user, stored.assignment, _saved(stored))


def _go_on(request: Request, session: SessionDep, user: User, finished: Assignment, done: str) -> Response:
    """Lease the next task of the same kind in this very transaction, and answer with it."""
    try:
        following = _claim(session, user, finished)
    except ForbiddenError:  # what was sent is kept all the same; the page of all work says why there is no more
        following = None
    notice = _notice(finished, done)
    if following is None:
        answer = _redirect_after(notice, "/work", done)
        return Response(headers={"HX-Redirect": answer.headers["location"]}) if is_htmx(request) else answer
    address = f"/work/assignments/{following}"
    if not is_htmx(request):
        return _redirect_after(notice, address, done)
    if request.headers.get(AHEAD) == str(following):
        headers = {"HX-Push-Url": address, SHOWN: str(following)}
        return render(request, "labeling/_shown.html", work.aside(session, following, user, notice), headers=headers)
    task = work.open_task(session, following, user, notice=notice)
    return render(request, "labeling/_task.html", task, headers={"HX-Push-Url": address})


def _redirect_after(notice: Notice, path: str, done: str) -> Response:
    return redirect(f"{path}?after={notice.undo}" if notice.undo else path, done=done)


def _claim(session: SessionDep, user: User, beside: Assignment, ahead_of: UUID | None = None) -> UUID | None:
    project = projects.get(session, beside.task.project_id)
    kind: assignments.TaskKind = "ranking" if beside.task.kind == "ranking" else "demonstration"
    return assignments.claim(session, project, user, kind, ahead_of=ahead_of)


def _notice(finished: Assignment, done: str) -> Notice:
    if done == "skipped" or done.startswith("trial-"):  # a trial is over with its last answer: no way back
        return Notice(DONE[done])
    return Notice(DONE[done], "wait" if done == "saved-late" else "good", undo=finished.id)


def _refused(
    request: Request,
    session: SessionDep,
    user: User,
    assignment_id: UUID,
    error: PlackettError,
    filled: Mapping[str, str],
) -> Response:
    """Show the task again with the reason and with what was entered; after a conflict htmx leaves the page as it is."""
    task = work.open_task(
        session,
        assignment_id,
        user,
        filled=filled,
        changing=guidelines.FIELD in filled,
        error=error.message,
    )
    if is_htmx(request) and not isinstance(error, InvalidInputError):
        raise error
    return _page(request, task, error.status)


def _page(request: Request, task: OpenTask, status: int = 200) -> Response:
    name = "labeling/_task.html" if is_htmx(request) else "labeling/assignment.html"
    return render(request, name, task, status)


def _saved(stored: Stored) -> str:
    if stored.trial is not None:
        return f"trial-{stored.trial}"
    return "saved" if stored.not_counted_reason is None else "saved-late"


def _read(sent: Fields) -> tuple[UUID, dict[str, str]]:
    """Return the form's submit id and its other fields; raise `InvalidInputError` for a field that stands twice."""
    fields: dict[str, str] = {}
    for key, value in sent:
        if key in fields:
            raise InvalidInputError(f"The form holds the field {key!r} twice. Reload the page and send it again.")
        fields[key] = value
    try:
        return UUID(fields.pop("submit_id", "")), fields
    except ValueError:
        raise InvalidInputError("The form has lost its number. Reload the page and send it again.") from None
