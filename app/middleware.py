"""What holds for every response: a request id, the security headers, one log line, and no body larger than allowed.

Plain ASGI, outside of everything else, so that errors, static files and refused requests are covered as well.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import latency, logs
from app.error_pages import BROKEN, error_response
from app.errors import TooLargeError

logger = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "object-src 'none'",
    )
)

SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, browsers send `Origin: null` with our own forms, and the origin check needs it.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Whoever means to be cached says so; a page with somebody's prompts must not stay on a shared machine.
    "Cache-Control": "no-store",
}


class Envelope:
    """The outermost layer: id, headers, log line, and the last resort for an exception nobody expected."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self.app = app
        self.headers = dict(SECURITY_HEADERS)
        if https:
            self.headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        with logs.context(request_id=request_id), latency.request():
            await self._serve(scope, receive, send, request_id)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        scope.setdefault("state", {})["request_id"] = request_id
        started_at = time.perf_counter()
        status = 0

        async def send_wrapped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_wrapped)
        except Exception:
            logger.exception("request %s failed: %s %s", request_id, scope["method"], _route(scope))
            if status:
                raise  # The response is under way; the server has to cut the connection.
            response = error_response(Request(scope), 500, BROKEN)
            await response(scope, receive, send_wrapped)
        finally:
            milliseconds = (time.perf_counter() - started_at) * 1000
            method, route = scope["method"], _route(scope)
            told = logs.fields(method=method, route=route, status=status, milliseconds=round(milliseconds, 1))
            logger.info("%s %s %d %.0f ms", method, route, status, milliseconds, extra=told)


def _route(scope: Scope) -> str:
    """Return the route's template. The path itself may hold an invitation's secret and is never logged."""
    return getattr(scope.get("route"), "path", "(no route)")


class BodyLimit:
    """Refuses a body over `limit` bytes before anything parses it; paths that match `larger` have their own limit."""

    def __init__(self, app: ASGIApp, *, limit: int, larger: Sequence[tuple[re.Pattern[str], int]] = ()) -> None:
        self.app = app
        self.limit = limit
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, counting what it sends."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = next((size for pattern, size in self.larger if pattern.fullmatch(scope["path"])), self.limit)
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > limit:
            error = TooLargeError(f"This is more than the {limit >> 10:,} KiB that are taken at once. Send less.")
            status = error.status if announced.isdecimal() else 400
            response = error_response(Request(scope), status, error.message)
            await response(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise HTTPException(413)
            return message

        await self.app(scope, receive_counted, send)
