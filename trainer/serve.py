"""A small OpenAI-compatible server for the models of this machine, for live chat where no other server is set up.

    PLACKETT_MODEL_SERVER_KEY=secret python -m trainer.serve --port 8001

    POST /v1/chat/completions    model (a folder or hub id), messages, temperature, top_p, max_tokens, seed, stream
    GET  /v1/models              what is in memory
    GET  /health

It listens on the loopback address only. With a key, whoever does not send it as a bearer token is turned away.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from trainer.config import ConfigError, Sampling
from trainer.engine import Engine, Event, Job
from trainer.records import Message

logger = logging.getLogger("uvicorn.error")

MAX_BODY_BYTES = 4 << 20
KEEP_ALIVE_SECONDS = 5.0
HEAD_SECONDS = 20.0  # how long a refusal may still get a status of its own; then the stream begins
ROLES = ("system", "user", "assistant")


class RequestError(Exception):
    """A request that is answered with `status` and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """A request for an answer, checked."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int | None
    stream: bool


def read(body: bytes) -> Asked:
    """Return what a request's body asks for; raise `RequestError` if that cannot be made out."""
    try:
        value = json.loads(body)
        messages = tuple(Message(item["role"], item["content"]) for item in value["messages"])
        sampling = Sampling(
            max_new_tokens=int(value.get("max_completion_tokens") or value.get("max_tokens") or 512),
            temperature=float(1.0 if value.get("temperature") is None else value["temperature"]),
            top_p=float(1.0 if value.get("top_p") is None else value["top_p"]),
        )
        seed = None if value.get("seed") is None else int(value["seed"])
        asked = Asked(value["model"], messages, sampling, seed, bool(value.get("stream", False)))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ConfigError) as error:
        raise RequestError(400, f"The request cannot be read ({type(error).__name__}: {error}).") from None
    if not isinstance(asked.model, str) or not asked.messages:
        raise RequestError(400, "A request names a model and has messages.")
    if any(message.role not in ROLES or not isinstance(message.content, str) for message in messages):
        raise RequestError(400, "A message has a role (system, user, assistant) and a text.")
    return asked


class Service:
    """The HTTP side of an engine."""

    def __init__(self, engine: Engine, key: str) -> None:
        self._engine = engine
        self._key = key

    def application(self) -> Starlette:
        """Return the routes as an ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/health", self.health),
            ],
            exception_handlers={RequestError: _refuse},
        )

    async def health(self, _request: Request) -> Response:
        """Say that the server is there."""
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """List the models in memory."""
        self._admit(request)
        return JSONResponse(
            {"object": "list", "data": [{"id": name, "object": "model"} for name in self._engine.loaded]}
        )

    async def complete(self, request: Request) -> Response:
        """Answer, as a stream of events or in one piece."""
        self._admit(request)
        asked = read(await _body(request))
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(asked.model, asked.messages, asked.sampling, asked.seed, emit)
        if not self._engine.submit(job):
            raise RequestError(503, "Too many answers are being made already; try again in a moment.")
        try:
            if not asked.stream:
                return await _whole(asked.model, events)
            first = await _next(events, HEAD_SECONDS)
        except BaseException:
            job.cancelled = True
            raise
        _raise_if_failed(first)
        return StreamingResponse(_stream(asked.model, job, first, events), media_type="text/event-stream")

    def _admit(self, request: Request) -> None:
        sent = request.headers.get("authorization", "")
        if self._key and not hmac.compare_digest(sent.encode(), f"Bearer {self._key}".encode()):
            raise RequestError(401, "The key is missing or wrong.")


async def _stream(model: str, job: Job, first: Event | None, events: asyncio.Queue[Event]) -> AsyncIterator[str]:
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}
    event = first
    try:
        while True:
            if event is None:
                yield ": still working\n\n"
            elif event.kind in ("refusal", "fault"):
                logger.warning("An answer of %s failed: %s", model, event.text)
                yield _data({"error": {"message": event.text, "type": event.kind}})
                return
            else:
                ended = event.kind == "end"
                delta = {} if ended else {"role": "assistant", "content": event.text}
                choice = {"index": 0, "delta": delta, "finish_reason": event.text if ended else None}
                yield _data({**head, "model": model, "choices": [choice]})
                if ended:
                    yield "data: [DONE]\n\n"
                    return
            event = await _next(events, KEEP_ALIVE_SECONDS)
    finally:
        job.cancelled = True  # also when the client has gone


async def _whole(model: str, events: asyncio.Queue[Event]) -> Response:
    parts: list[str] = []
    while (event := await events.get()).kind == "text":
        parts.append(event.text)
    _raise_if_failed(event)
    message = {"role": "assistant", "content": "".join(parts)}
    choice = {"index": 0, "message": message, "finish_reason": event.text}
    return JSONResponse({"id": uuid.uuid4().hex, "object": "chat.completion", "model": model, "choices": [choice]})


async def _next(events: asyncio.Queue[Event], seconds: float) -> Event | None:
    """Return the next event, or None when there is none for so long."""
    try:
        return await asyncio.wait_for(events.get(), seconds)
    except TimeoutError:
        return None


def _raise_if_failed(event: Event | None) -> None:
    if event is not None and event.kind == "refusal":
        raise RequestError(400, event.text)
    if event is not None and event.kind == "fault":
        raise RequestError(500, event.text)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(413, "The request is too large.")
    return bytes(body)


async def _refuse(_request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, RequestError) else 500
    logger.warning("Refused with %d: %s", status, error)
    return JSONResponse({"error": {"message": str(error), "type": "invalid_request_error"}}, status)


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m trainer.serve", description="Serve models on this machine.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="port on 127.0.0.1; 0 takes a free one")
    where.add_argument("--fd", type=int, help="a socket that is bound already")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--models", type=int, default=2, help="how many models stay in memory")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `trainer.__main__`
    if options.fd is None:
        bound = socket.create_server(("127.0.0.1", options.port))
    else:
        bound = socket.socket(fileno=options.fd)
    service = Service(Engine(options.device, max(1, options.models)), os.environ.get("PLACKETT_MODEL_SERVER_KEY", ""))
    config = uvicorn.Config(
        service.application(), access_log=False, server_header=False, timeout_graceful_shutdown=5, lifespan="off"
    )
    server = uvicorn.Server(config)
    server.run(sockets=[bound])  # after a signal uvicorn raises it again, so what follows is for a failed start
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
