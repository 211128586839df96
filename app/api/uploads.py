"""REST API, version 1: files sent in pieces, after the protocol tus 1.0 (core, creation, termination), then imported.

A piece is stored whole or not at all. After a break, HEAD says where to go on.
"""

from __future__ import annotations

from typing import Annotated, Any, BinaryIO
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from app.api.callers import ImportCaller, ImportProject
from app.api.imports import LINE, ImportOut, ImportQuery, body
from app.api.jobs import ACCEPTED, accepted
from app.api.problems import WRITES
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.data import intake, jobs, uploads
from app.services.projects import projects

router = APIRouter(prefix="/api/v1", responses=WRITES, tags=["import"])

VERSION = "1.0.0"
PIECE = "application/offset+octet-stream"
_HEADERS = {"Tus-Resumable": VERSION, "Cache-Control": "no-store"}
_NO_BODY: dict[int | str, dict[str, Any]] = {201: {"description": "Begun; `Location` is where its pieces go."}}

Length = Annotated[int, Header(alias="Upload-Length", ge=0, description="bytes of the whole file")]
Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, description="the number of the piece's first byte")]


@router.post("/projects/{project_id}/uploads", status_code=201, response_class=Response, responses=_NO_BODY)
def begin(session: SessionDep, caller: ImportCaller, project: ImportProject, upload_length: Length) -> Response:
    """Begin a file of up to 4 GiB. It is kept for a day."""
    upload = uploads.create(session, project, tokens.maker(session, caller), upload_length)
    return Response(status_code=201, headers={**_HEADERS, "Location": f"/api/v1/uploads/{upload.id}"})


@router.head("/uploads/{upload_id}", response_class=Response)
def how_far(upload_id: UUID, session: SessionDep, caller: ImportCaller) -> Response:
    """Say how much of the file has come."""
    upload = uploads.get(session, upload_id)
    caller.require_project(upload.project_id)
    return Response(headers={**_HEADERS, "Upload-Offset": str(upload.received), "Upload-Length": str(upload.size)})


@router.patch(
    "/uploads/{upload_id}",
    status_code=204,
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {PIECE: {"schema": {"type": "string", "format": "binary"}, "example": LINE}},
        }
    },
)
def send_piece(
    upload_id: UUID,
    piece: Annotated[BinaryIO, Depends(body)],
    session: SessionDep,
    caller: ImportCaller,
    upload_offset: Offset,
) -> Response:
    """Store the next piece. One that is not the next is answered with 409 and stored nowhere."""
    caller.require_project(uploads.get(session, upload_id).project_id)
    received = uploads.append(session, uploads.get(session, upload_id, for_update=True), upload_offset, piece)
    return Response(status_code=204, headers={**_HEADERS, "Upload-Offset": str(received)})


@router.delete("/uploads/{upload_id}", status_code=204, response_class=Response)
def forget(upload_id: UUID, session: SessionDep, caller: ImportCaller) -> Response:
    """Delete what has come."""
    upload = uploads.get(session, upload_id)
    caller.require_project(upload.project_id)
    uploads.remove(session, upload)
    return Response(status_code=204, headers=_HEADERS)


@router.post("/uploads/{upload_id}/import", response_model=ImportOut, responses=ACCEPTED)
def import_upload(
    upload_id: UUID, session: SessionDep, caller: ImportCaller, asked: Annotated[ImportQuery, Query()]
) -> Any:
    """Import the file, all or nothing, and delete it once it is stored. A refused one is kept for a day.

    A large file is answered with 202 and a job; asking again while that waits or runs is answered with the same job.
    """
    caller.require_project(uploads.get(session, upload_id).project_id)
    upload = uploads.get(session, upload_id, for_update=True)
    with uploads.whole(upload).open("rb") as file:
        if jobs.is_long_import(file):
            user = tokens.maker(session, caller)
            job = jobs.ask_import(
                session, upload, user, format_name=asked.format, dataset=asked.dataset, judge=asked.judge
            )
            return accepted(session, job)
        report = intake.import_file(
            session,
            projects.get(session, upload.project_id),
            tokens.maker(session, caller),
            file,
            format_name=asked.format,
            dataset=asked.dataset,
            judge=asked.judge,
        )
    uploads.remove(session, upload)
    return ImportOut.model_validate(report)
