"""Asking a model behind an OpenAI-compatible endpoint, as a stream of pieces, and trusting nothing that comes back.

Only endpoints that the operator has named in the settings are called: no redirect is followed, no proxy of the
environment is used, a key goes to its own address alone. Whatever goes wrong becomes one of a closed set of failures,
each with a sentence for the labeler; what the endpoint itself says is never shown and never logged.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import httpx

from app.settings import Endpoint, get_settings

CONNECT_SECONDS = 5.0
MAX_LINE_BYTES = 1 << 20
MAX_BYTES = 16 << 20  # each token comes in some hundred bytes of JSON
MAX_CHARACTERS = 60_000


class Failure(StrEnum):
    """Why an answer did not come, or came only in part."""

    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    UNKNOWN_MODEL = "unknown_model"
    UNSUITABLE = "unsuitable"
    BUSY = "busy"
    BROKEN = "broken"
    REDIRECTED = "redirected"
    UNREADABLE = "unreadable"
    SILENT = "silent"
    TOO_SLOW = "too_slow"
    TOO_LONG = "too_long"
    CUT = "cut"
    EMPTY = "empty"
    NOT_ALLOWED = "not_allowed"
    INTERRUPTED = "interrupted"


SENTENCES: Mapping[Failure, str] = {
    Failure.UNREACHABLE: "The model could not be reached. Try again in a moment.",
    Failure.REFUSED: "The model's server did not let us in. Tell an admin: its key has to be checked.",
    Failure.UNKNOWN_MODEL: "The model's server does not have this model. Tell an admin.",
    Failure.UNSUITABLE: "The model could not take this conversation; it may be too long for it.",
    Failure.BUSY: "The model is busy with others. Try again in a moment.",
    Failure.BROKEN: "The model's server had a fault of its own. Try again.",
    Failure.REDIRECTED: "The model's server sent us elsewhere, where we do not go. Tell an admin.",
    Failure.UNREADABLE: "What the model sent could not be read. Try again.",
    Failure.SILENT: "The model fell silent. Try again.",
    Failure.TOO_SLOW: "The model took too long. Try again.",
    Failure.TOO_LONG: "The answer did not end, so it was stopped. Try again.",
    Failure.CUT: "The connection broke off before the answer was complete. Try again.",
    Failure.EMPTY: "The model sent no text. Try again.",
    Failure.NOT_ALLOWED: "This model may not be asked any more. Tell an admin.",
    Failure.INTERRUPTED: "The answer was interrupted on our side. Try again.",
}


class EndpointError(Exception):
    """An answer that failed. `failure` says how; nothing of what the endpoint sent is in it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


class Piece(NamedTuple):
    """A piece of an answer. The last one has a finish reason: `stop`, `length` or `other`."""

    text: str
    finish_reason: str | None = None


@dataclass(frozen=True)
class Question:
    """What to ask: the endpoint by its name in the settings, the model by the endpoint's name for it."""

    endpoint: str
    model: str
    messages: Sequence[Mapping[str, str]]
    temperature: float
    max_tokens: int


def find(name: str, model: str | None = None) -> Endpoint:
    """Return an endpoint of the allow-list; raise `EndpointError` when it, or this model of it, is not there."""
    endpoint = get_settings().allowed_endpoints.get(name)
    if endpoint is None or (model is not None and endpoint.models is not None and model not in endpoint.models):
        raise EndpointError(Failure.NOT_ALLOWED)
    return endpoint


async def ask(question: Question) -> AsyncIterator[Piece]:
    """Yield the answer piece by piece as it comes; the last piece has the finish reason.

    Raises `EndpointError`, also after some pieces have come: they stay valid as the beginning of the answer.
    """
    endpoint = find(question.endpoint, question.model)
    characters, has_words, finish_reason = 0, False, None
    async with _opened(endpoint, question) as lines:
        async for line in lines:
            if not line.startswith(b"data:"):
                continue  # a comment that keeps the line alive, or a field of the protocol that we have no use for
            data = line[5:].strip()
            if data == b"[DONE]":
                finish_reason = finish_reason or "other"
                break
            text, reason = _read(data)
            finish_reason = reason or finish_reason
            if text:
                characters += len(text)
                has_words = has_words or not text.isspace()
                if characters > MAX_CHARACTERS:
                    raise EndpointError(Failure.TOO_LONG)
                yield Piece(text)
    if finish_reason is None:
        raise EndpointError(Failure.CUT if characters else Failure.EMPTY)
    if not has_words:
        raise EndpointError(Failure.EMPTY)
    yield Piece("", finish_reason)


@asynccontextmanager
async def _opened(endpoint: Endpoint, question: Question) -> AsyncIterator[AsyncIterator[bytes]]:
    """Send the question and give the lines of the answer; every fault of the transport becomes an `EndpointError`."""
    settings = get_settings()
    timeout = httpx.Timeout(settings.chat_idle_seconds, connect=CONNECT_SECONDS)
    body = {
        "model": question.model,
        "messages": list(question.messages),
        "temperature": question.temperature,
        "max_tokens": question.max_tokens,
        "stream": True,
    }
    try:
        async with (
            httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False, verify=_tls()) as client,
            client.stream(
                "POST", f"{endpoint.base_url}/chat/completions", json=body, headers=_headers(endpoint)
            ) as response,
        ):
            _check(response)
            yield _lines(response, settings.chat_total_seconds)
    except httpx.ReadTimeout:
        raise EndpointError(Failure.SILENT) from None
    except (httpx.ConnectError, httpx.TimeoutException):
        raise EndpointError(Failure.UNREACHABLE) from None
    except httpx.ReadError:
        raise EndpointError(Failure.CUT) from None
    except httpx.HTTPError as error:
        # A protocol that is broken off in the middle and one that never was HTTP are one class to httpx.
        cut = isinstance(error, httpx.RemoteProtocolError) and any(
            word in str(error) for word in ("closed", "disconnected")
        )
        raise EndpointError(Failure.CUT if cut else Failure.UNREADABLE) from None


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
    try:
        key = endpoint.key()
    except KeyError:
        raise EndpointError(Failure.REFUSED) from None
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _check(response: httpx.Response) -> None:
    """Raise `EndpointError` unless a stream of events has begun. The body of a refusal is not even read."""
    status = response.status_code
    if status == 200:
        if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/event-stream":
            raise EndpointError(Failure.UNREADABLE)
        return
    match status:
        case 401 | 403:
            failure = Failure.REFUSED
        case 404:
            failure = Failure.UNKNOWN_MODEL
        case 408 | 425 | 429 | 503 | 529:
            failure = Failure.BUSY
        case _ if 300 <= status < 400:
            failure = Failure.REDIRECTED
        case _ if 400 <= status < 500:
            failure = Failure.UNSUITABLE
        case _ if status >= 500:
            failure = Failure.BROKEN
        case _:
            failure = Failure.UNREADABLE
    raise EndpointError(failure)


async def _lines(response: httpx.Response, seconds: float) -> AsyncIterator[bytes]:
    """Yield the lines of a body, none longer and all together no larger or slower than allowed."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    chunks = response.aiter_raw()
    pending, received = b"", 0
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise EndpointError(Failure.TOO_SLOW) from None
        if chunk is None:
            break
        received += len(chunk)
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(pending) > MAX_LINE_BYTES or received > MAX_BYTES:
            raise EndpointError(Failure.TOO_LONG)
    if pending:
        yield pending


def _read(data: bytes) -> tuple[str, str | None]:
    """Return the text and the finish reason of one event; raise `EndpointError` if it is none."""
    try:
        event = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise EndpointError(Failure.UNREADABLE) from None
    choices = event.get("choices") if isinstance(event, dict) else None
    if isinstance(event, dict) and "error" in event and choices is None:
        raise EndpointError(Failure.BROKEN)
    if not isinstance(choices, list):
        raise EndpointError(Failure.UNREADABLE)
    if not choices:
        return "", None  # an event of the bill: how many tokens there were
    first: Any = choices[0]
    delta = first.get("delta") if isinstance(first, dict) else None
    if not isinstance(delta, dict):
        raise EndpointError(Failure.UNREADABLE)
    text, reason = delta.get("content"), first.get("finish_reason")
    if not isinstance(text, str | None) or not isinstance(reason, str | None):
        raise EndpointError(Failure.UNREADABLE)
    if reason not in (None, "stop", "length"):
        reason = "other"
    return storable(text or ""), reason


def storable(text: str) -> str:
    """Return the text without what Postgres cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Return the one TLS context: to read the machine's certificates anew for every answer would cost more than it."""
    return ssl.create_default_context()
