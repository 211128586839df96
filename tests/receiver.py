"""A server that webhooks are sent to. What it does with a request is the last part of the path."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


@dataclass
class Receiver:
    """What came in, in order, as headers and body by path; `let_go` ends the waiting of the slow path."""

    url: str = ""
    port: int = 0
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    let_go: Event = field(default_factory=Event)

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]


class Server(ThreadingHTTPServer):
    """Takes more connections at once than are ever sent; the usual five would break off some of them."""

    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that a test breaks off."""


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run one on a free port of this machine, over TLS if it is told with what."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            sent = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append((self.path, sent, self.rfile.read(length)))
            what = self.path.rpartition("/")[2]
            if what == "slow":
                receiver.let_go.wait(60)
                self.close_connection = True
            elif what == "closes":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif what == "garbage":
                self.wfile.write(b"this is no HTTP\r\n\r\n")
                self.close_connection = True
            elif what == "redirect":
                self._answer(307, {"Location": f"{receiver.url}/ok"})
            elif what == "endless":
                self.send_response(200)
                self.end_headers()
                receiver.let_go.wait(60)  # a body that never comes
                self.close_connection = True
            else:
                self._answer({"ok": 204, "500": 500, "gone": 410}[what])

        do_GET = do_POST  # noqa: N815  (the library's name)

        def _answer(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the library's name)
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:  # the handshake waits for the first byte that is read, in the connection's own thread
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    receiver.url = f"http://127.0.0.1:{receiver.port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()
