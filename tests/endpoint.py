"""An OpenAI-compatible endpoint that behaves, or misbehaves, as the name of the asked model says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Endpoint:
    """A running endpoint: what it was asked, and the brake of its model `waits`, which `go` lets off."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> int:
        with self.lock:
            return len(self.asked)


def event(text: str | None = None, reason: str | None = None, **values: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    value = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **values}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
HEAD = event("") + b": a comment\n\nevent: ping\nid: 7\n\n"


CUT = b""
"""In the place of a chunk: the connection breaks off in the middle of the body."""


def words(endpoint: Endpoint, rest: str, number: int) -> Iterator[bytes]:
    for place, word in enumerate((rest or "Hello world").split(" ")):
        yield event(word if place == 0 else f" {word}")
    yield event(None, "stop") + event(usage={"total_tokens": 9}, choices=[]) + DONE


def waits(endpoint: Endpoint, rest: str, number: int) -> Iterator[bytes]:
    """The first word, and the rest once `go` is set."""
    for place, chunk in enumerate(words(endpoint, rest, number)):
        yield chunk
        if place == 0:
            endpoint.go.wait(20)


def breaks(endpoint: Endpoint, rest: str, number: int) -> Iterator[bytes]:
    """Cut off after all words, until `go` repairs it."""
    *said, end = words(endpoint, rest, number)
    yield from said
    yield end if endpoint.go.is_set() else CUT


def drips(endpoint: Endpoint, rest: str, number: int) -> Iterator[bytes]:
    while not endpoint.go.wait(0.02):
        yield b": still there\n\n"


def silent(endpoint: Endpoint, rest: str, number: int) -> Iterator[bytes]:
    yield event("And then")
    endpoint.go.wait(20)


ANSWERS: dict[str, Callable[[Endpoint, str, int], Iterator[bytes]]] = {
    "says": words,
    "counts": lambda endpoint, rest, number: words(endpoint, f"{rest} {number}", number),  # each answer is another one
    "waits": waits,
    "breaks": breaks,
    "drips": drips,
    "silent": silent,
    "length": lambda *_: iter([event("Cut sh") + event(None, "length")]),  # some servers never send [DONE]
    "cut": lambda *_: iter([event("Half of it"), CUT]),
    "ends": lambda *_: iter([event("Half of it")]),
    "endless": lambda *_: (event("on and on " * 100) for _ in range(100_000)),
    "line": lambda *_: (b"x" * (64 << 10) for _ in range(160)),
    "raw": lambda _, rest, __: iter(
        [event("Fine so far") + bytes.fromhex(rest) + b"\n\n" + event("and on", "stop") + DONE]
    ),
    "empty": lambda *_: iter([event(None, "stop") + DONE]),
    "blank": lambda *_: iter([event(" \n", "stop") + DONE]),
}


class Handler(BaseHTTPRequestHandler):
    """One request. A model named `says …` answers with these words, `5xx` with that status."""

    protocol_version = "HTTP/1.1"
    endpoint: Endpoint

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.endpoint.lock:
            self.endpoint.asked.append(body)
            self.endpoint.headers.append(dict(self.headers))
            number = len(self.endpoint.asked)
        model = body["model"]
        try:
            if model.isdecimal():
                self._status(int(model))
            elif model.startswith("moved "):
                self._status(307, Location=model.removeprefix("moved "))
            elif model == "page":
                self._begin("text/html")
                self._chunk(b"<html><h1>Gateway time-out</h1>")
                self._chunk(b"")
            else:
                self._begin("text/event-stream; charset=utf-8")
                self._stream(model, number)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _stream(self, model: str, number: int) -> None:
        self._chunk(HEAD)
        kind, _, rest = model.partition(" ")
        for chunk in ANSWERS[kind](self.endpoint, rest, number):
            if chunk is CUT:
                self.wfile.write(b"400\r\ndata: {")
                self.wfile.flush()
                self.close_connection = True
                return
            self._chunk(chunk)
        self._chunk(b"")

    def _status(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "12", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"<b>SECRET</b"[:12])

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    """A server that does not complain about clients that have heard enough."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def running() -> Iterator[Endpoint]:
    """Serve on a free port until the context ends."""
    endpoint = Endpoint("")
    handler = type("Bound", (Handler,), {"endpoint": endpoint})
    server = Server(("127.0.0.1", 0), handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.go.set()
        server.shutdown()
        server.server_close()
        thread.join()
