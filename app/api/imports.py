"""REST API, version 1: rankings, demonstrations and prompts from elsewhere, sent as a file, stored all or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO, Literal, get_args
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.api.callers import ImportCaller, ImportProject
from app.api.jobs import ACCEPTED, accepted
from app.api.problems import WRITES
from app.db import SessionDep
from app.services.accounts import tokens
from app.services.data import import_rows, intake, jobs
from app.services.data.formats.catalog import READ, Source

router = APIRouter(prefix="/api/v1/projects/{project_id}/import", responses=WRITES, tags=["import"])

LINE = '{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}\n'
"""A file of one line, in the format trl-text."""

_IN_MEMORY = 1 << 20


class ImportQuery(BaseModel):
    """Where the file comes from, its format, and what judged or wrote what is in it."""

    model_config = ConfigDict(extra="forbid")
    format: str = Field(
        description="; ".join(
            f"{kind}: {', '.join(name for name, of in READ.items() if of.of == kind)}" for kind in get_args(Source)
        )
        + f"; or {intake.DETECT}, and the first line tells"
    )
    dataset: str = Field(max_length=import_rows.MAX_NAME, examples=["hh-rlhf"])
    judge: Literal["human", "ai"] | None = None


class ImportOut(BaseModel):
    """What became of the file, which held rankings, demonstrations or prompts (`of`).

    `added` of them are new; `prompts` and `completions` (answers that nobody has judged) are what came with them.
    Duplicates are the same by the same author; `left_out` lines held nothing to take.
    """

    model_config = ConfigDict(
        extra="forbid",
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "of": "rankings",
                    "added": 2307,
                    "prompts": 2301,
                    "completions": 4614,
                    "labelers": 1,
                    "duplicates_in_file": 0,
                    "duplicates_in_project": 0,
                    "left_out": 1,
                    "left_out_lines": ["Line 88: its two conversations differ before their last turn."],
                    "import_id": "0198c0de-0000-7000-8000-000000000071",
                }
            ]
        },
    )
    of: Source
    added: int
    prompts: int
    completions: int
    labelers: int
    duplicates_in_file: int
    duplicates_in_project: int
    left_out: int
    left_out_lines: list[str]
    import_id: UUID


async def body(request: Request) -> AsyncIterator[BinaryIO]:
    """Yield the body as a file, on disk beyond 1 MiB. It is whole before a connection of the database is taken."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        async for chunk in request.stream():
            await run_in_threadpool(file.write, chunk)
        file.seek(0)
        yield file  # type: ignore[misc]  # a spooled file is a binary file in all but name


@router.post(
    "",
    response_model=ImportOut,
    responses=ACCEPTED,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/x-ndjson": {"schema": {"type": "string", "format": "binary"}, "example": LINE}},
        }
    },
)
def import_file(
    file: Annotated[BinaryIO, Depends(body)],
    session: SessionDep,
    caller: ImportCaller,
    project: ImportProject,
    asked: Annotated[ImportQuery, Query()],
) -> Any:
    """Store what the file holds, as it is or compressed with gzip; one bad line and nothing is stored.

    Sending a file again adds nothing, so it is safe to repeat a request whose answer got lost. A large file is answered
    with 202 and a job, whose outcome is the report or says what is wrong, by line number.
    """
    if jobs.is_long_import(file):
        user = tokens.maker(session, caller)
        job = jobs.ask_import_of(
            session, project, user, file, format_name=asked.format, dataset=asked.dataset, judge=asked.judge
        )
        return accepted(session, job)
    report = intake.import_file(
        session,
        project,
        tokens.maker(session, caller),
        file,
        format_name=asked.format,
        dataset=asked.dataset,
        judge=asked.judge,
    )
    return ImportOut.model_validate(report)
