"""REST API, version 1: the export of a project in any format, streamed, and the manifest that says what it loses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID

import anyio
from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app import compression
from app.api.callers import ExportProject
from app.api.problems import PROBLEMS
from app.api.schemas import Closed, Moment, example
from app.db import SessionDep, reading
from app.errors import NotFoundError
from app.services.data.exports import ExportedRanking, Filters
from app.services.data.formats.catalog import FORMATS, named
from app.services.data.formats.records import Loss
from app.services.labeling import conversions
from app.services.labeling.conversions import Export
from app.services.training import snapshots

router = APIRouter(prefix="/api/v1/projects/{project_id}/export", responses=PROBLEMS, tags=["export"])

MOST = 10_000_000


class ExportQuery(Filters):
    """The parameters of an export: its format, what it does with ties, and the filters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: str = Field("plackett", description=", ".join(FORMATS), examples=["trl"])
    file: Literal["lines", "parquet"] = Field("lines", description="lines of JSON (or CSV), or a Parquet file")
    ties: Literal["drop", "both", "margin0"] = Field(
        "drop", description="in formats of pairs that know no tie: left out, written both ways, or with margin 0"
    )
    since: Moment | None = None
    until: Moment | None = None
    snapshot: UUID | None = Field(
        None, description="what this snapshot froze instead of what there is now; always the same bytes"
    )
    limit: int | None = Field(None, ge=1, le=MOST, description="rankings in a page; `Link` then names the next page")

    def export(self, session: Session, project_id: UUID) -> Export:
        """Return what is asked for; raise for a format or a snapshot that there is not."""
        filters = Filters(**{name: getattr(self, name) for name in Filters.model_fields})
        frozen = None if self.snapshot is None else snapshots.get(session, self.snapshot)
        if frozen is not None and frozen.project_id != project_id:
            raise NotFoundError("There is no such snapshot.")
        return Export(project_id, named(self.format), filters, self.ties, self.limit, frozen, self.file == "parquet")


Asked = Annotated[ExportQuery, Query()]


class LossOut(Closed):
    """What the format could not carry: counts by kind, rankings left out by reason, and both as sentences."""

    dropped: dict[str, int]
    left_out: dict[str, int]
    noted: dict[str, int]
    sentences: list[str]


class ManifestOut(Closed):
    """What an export holds at this moment. `sha256` and `bytes` are of the file before any compression."""

    model_config = example(
        {
            "format": "trl",
            "file": "lines",
            "project_id": "0198c0de-0000-7000-8000-000000000001",
            "filters": {"counted": True},
            "snapshot": None,
            "ties": "drop",
            "limit": None,
            "moment": "2026-11-02T09:00:00Z",
            "of": "rankings",
            "records": 1200,
            "rows": 3386,
            "bytes": 2419200,
            "sha256": "51ab" * 16,
            "loss": {
                "dropped": {"ties": 214, "reasons": 31},
                "left_out": {},
                "noted": {},
                "sentences": ["214 ties and 31 reasons dropped"],
            },
        }
    )
    format: str
    file: Literal["lines", "parquet"]
    project_id: UUID
    filters: dict[str, Any]
    snapshot: str | None
    ties: str
    limit: int | None
    moment: datetime
    of: Literal["rankings", "prompts", "demonstrations"]
    records: int
    rows: int
    bytes: int
    sha256: str
    loss: LossOut


class ClosingStream(StreamingResponse):
    """A stream whose source is closed however it ends, also when the client goes away in the middle.

    However many there are, two at a time get their next piece made: so twenty that read slowly are all served, and
    twenty that read fast leave the threads and the processor to labelers.
    """

    making = anyio.CapacityLimiter(2)

    def __init__(
        self, lines: Iterator[bytes], close: Callable[[], None], media_type: str, headers: dict[str, str]
    ) -> None:
        super().__init__(self._pieces(lines), media_type=media_type, headers=headers)
        self._close = close

    async def _pieces(self, lines: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await anyio.to_thread.run_sync(next, lines, None, limiter=self.making)) is not None:
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, then close its source."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(self._close)


@router.get(
    "",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The file, one JSON object a line (or CSV), in the order the rankings were given.",
            "content": {
                "application/x-ndjson": {"schema": ExportedRanking.model_json_schema()},
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
def export(session: SessionDep, project: ExportProject, request: Request, asked: Asked) -> StreamingResponse:
    """Stream a project's rankings, prompts or demonstrations as they are at the moment of the request.

    An export that broke off goes on with `after`, the id of the last complete line (`limit` and the header `Link` do
    the same for formats without ids). It is compressed when `Accept-Encoding` names zstd or gzip.
    """
    wanted = asked.export(session, project.id)
    source = ExitStack()
    with source:
        moment = session
        if wanted.snapshot is None:
            moment = source.enter_context(reading())
            # Waits for a connection now: once the stream has begun, its status cannot say 503 any more.
            moment.connection()
        headers = {"Vary": "Accept-Encoding"}
        following = conversions.next_after(moment, wanted)
        if following is not None:
            query = asked.model_dump(mode="json", exclude_none=True) | {"after": following}
            headers["Link"] = f'<{request.url.path}?{urlencode(query)}>; rel="next"'
        chunks: Iterator[bytes] = source.enter_context(closing(conversions.chunks(moment, wanted, Loss())))
        accepted = request.headers.get("accept-encoding", "")
        # Parquet is compressed in itself.
        encoding = None if wanted.parquet else compression.chosen(accepted)
        if encoding is not None:
            headers["Content-Encoding"] = encoding
            chunks = source.enter_context(closing(compression.compressed(chunks, encoding)))
        kept = source.pop_all()
    return ClosingStream(chunks, kept.close, wanted.media_type, headers)


@router.get("/manifest")
def manifest(session: SessionDep, project: ExportProject, asked: Asked) -> ManifestOut:
    """Say what an export with the same parameters holds now, and what its format loses. Takes as long as the export."""
    wanted = asked.export(session, project.id)
    with reading() as moment:
        return ManifestOut(**conversions.manifest(moment, wanted))
