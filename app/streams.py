"""The answers that this web process is getting from endpoints right now, and those who read along.

An answer belongs to no request: it goes on when its reader closes the tab, and a second tab reads the same one. No
database session is held while text comes; what has come is stored every second in a transaction of its own, made in
one of two threads that are kept for this. A process that dies leaves an answer whose time runs out (`LEASE_SECONDS`);
then the next reader's process takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import db
from app.services.chat import chat_answers, endpoints
from app.services.chat.chat_answers import Claim, Progress
from app.services.chat.endpoints import EndpointError, Failure

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.05  # how often a reader is told what is new
STORE_SECONDS = 1.0
LOOK_SECONDS = 0.5  # how often the database is asked about an answer that another process is getting
STORE_TRIES = 5

T = TypeVar("T")


@dataclass
class _Running:
    """An answer on its way. `task` is held here, because the event loop holds it only weakly."""

    claim: Claim
    text: str = ""
    lost: bool = False
    task: asyncio.Task[None] | None = None


class Streams:
    """At most `limit` answers at once; one more fails as busy, and can be asked for again."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: dict[UUID, _Running] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="chat")

    async def follow(self, turn_id: UUID, claims: Sequence[Claim]) -> AsyncIterator[str]:
        """Get the claimed answers, and yield what comes on both sides of the turn as lines of JSON.

        {"side": "a", "text": "more"} · {"side": "a", "text": "all", "anew": true} · {"side": "a", "over": true}
        """
        await self._begin(claims)
        reader, shown = _Reader(self, turn_id), dict[str, Progress]()
        while True:
            for now in await reader.look():
                line = _difference(shown.get(now.side), now)
                shown[now.side] = now
                if line:
                    yield json.dumps(line, ensure_ascii=False) + "\n"
            if reader.is_over:
                return
            await asyncio.sleep(TICK_SECONDS)

    async def wait(self, turn_id: UUID, claims: Sequence[Claim], seconds: float) -> None:
        """Get the claimed answers and return when both sides are over, or after so many seconds."""
        await self._begin(claims)
        reader = _Reader(self, turn_id)
        with contextlib.suppress(TimeoutError):  # The page then shows what has come so far.
            async with asyncio.timeout(seconds):
                while not reader.is_over:
                    await reader.look()
                    await asyncio.sleep(TICK_SECONDS)

    def here(self, turn_id: UUID) -> list[Progress]:
        """Return those sides of a turn that come in this process."""
        found = (running for running in self._running.values() if running.claim.turn_id == turn_id)
        return [Progress(each.claim.side, each.claim.attempt, each.text, over=False) for each in found]

    async def stored(self, turn_id: UUID) -> Sequence[Progress]:
        """Return both sides of a turn as the database has them."""
        return await self._store(functools.partial(chat_answers.progress, turn_id=turn_id))

    async def _begin(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if len(self._running) >= self._limit:
                await self._store(functools.partial(chat_answers.fail, claim=claim, text="", failure=Failure.BUSY))
                continue
            running = self._running[claim.answer_id] = _Running(claim)
            running.task = asyncio.create_task(self._run(running))

    async def _run(self, running: _Running) -> None:
        """Get one answer from its first piece to its stored end."""
        claim, reason, failure = running.claim, "", Failure.INTERRUPTED
        keeper = asyncio.create_task(self._keep(running))
        try:
            async for piece in endpoints.ask(claim.question):
                if running.lost:
                    return
                running.text += piece.text
                reason = piece.finish_reason or reason
        except EndpointError as error:
            failure = error.failure
        except Exception:
            logger.exception("getting an answer of a chat failed")  # the labeler can ask again; the fault is ours
        finally:
            keeper.cancel()
            end = (
                functools.partial(chat_answers.finish, claim=claim, text=running.text, finish_reason=reason)
                if reason
                else functools.partial(chat_answers.fail, claim=claim, text=running.text, failure=failure)
            )
            try:
                if not running.lost:
                    await self._store(end)
            except SQLAlchemyError:
                logger.exception("an answer of a chat could not be stored; its time will run out")
            finally:
                del self._running[claim.answer_id]

    async def _keep(self, running: _Running) -> None:
        """Store what has come, again and again, which also holds the answer for this process."""
        while not running.lost:
            await asyncio.sleep(STORE_SECONDS)
            with contextlib.suppress(SQLAlchemyError):  # the next second tries again
                running.lost = not await self._store(
                    functools.partial(chat_answers.keep, claim=running.claim, text=running.text), tries=1
                )

    async def _store(self, act: Callable[[Session], T], tries: int = STORE_TRIES) -> T:
        """Run one short transaction beside the event loop; a database that is away for a moment is waited for."""

        def transaction() -> T:
            with db.transaction() as session:
                return act(session)

        loop = asyncio.get_running_loop()
        for _ in range(tries - 1):
            try:
                return await loop.run_in_executor(self._threads, transaction)
            except SQLAlchemyError:
                await asyncio.sleep(STORE_SECONDS)
        return await loop.run_in_executor(self._threads, transaction)


class _Reader:
    """One reader of a turn: sides that come here are read from memory, the others from the database, more rarely."""

    def __init__(self, streams: Streams, turn_id: UUID) -> None:
        self._streams = streams
        self._turn_id = turn_id
        self._known: dict[str, Progress] = {}
        self._here: set[str] = set()
        self._look_at = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come on either side."""
        return len(self._known) == len(chat_answers.SIDES) and all(side.over for side in self._known.values())

    async def look(self) -> Sequence[Progress]:
        """Return both sides as they are now, `a` first."""
        loop = asyncio.get_running_loop()
        here = {side.side: side for side in self._streams.here(self._turn_id)}
        elsewhere = [side for side in chat_answers.SIDES if side not in here]
        has_ended = bool(self._here - set(here))
        is_open = any(side not in self._known or not self._known[side].over for side in elsewhere)
        if has_ended or (is_open and loop.time() >= self._look_at):
            stored = await self._streams.stored(self._turn_id)
            self._known |= {side.side: side for side in stored if side.side in elsewhere}
            self._look_at = loop.time() + LOOK_SECONDS
        self._known |= here
        self._here = set(here)
        return [self._known[side] for side in sorted(self._known)]


class Later(Response):
    """A response that is made when the request's own transaction is over, so that a wait holds no session."""

    def __init__(self, make: Callable[[], Awaitable[Response]]) -> None:
        super().__init__()
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make the response and send it."""
        response = await self._make()
        await response(scope, receive, send)


def _difference(before: Progress | None, now: Progress) -> dict[str, Any] | None:
    """Return what a reader who knows `before` has to be told, or None."""
    line: dict[str, Any] = {}
    if before is None or before.attempt != now.attempt or not now.text.startswith(before.text):
        if now.text or before is not None:
            line = {"text": now.text, "anew": True}
    elif len(now.text) > len(before.text):
        line = {"text": now.text[len(before.text) :]}
    if now.over and (before is None or not before.over):
        line["over"] = True
    return {"side": now.side, **line} if line else None
