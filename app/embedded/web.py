"""The web process: uvicorn on a socket that is bound before anything else starts.

Binding first tells at once that a port is in use, and while the web process is replaced, the socket stays open in the
supervisor: browsers wait a moment instead of being refused.
"""

from __future__ import annotations

import errno
import socket

import uvicorn
from uvicorn.supervisors import Multiprocess

from app import logs
from app.errors import SetupError

APPLICATION = "app.main:app"
DRAIN_SECONDS = 20  # how long requests in flight may take after a stop is asked for


def bind(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket; port 0 takes a free one. Raises SetupError with the reason in a sentence."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SetupError(f"The host {host!r} is no address of this machine ({error.strerror}).") from None
    # A port whose last connections are still fading out is free for us; one that somebody listens on is not.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise SetupError(
                f"Port {port} on {host} is in use: stop the program that uses it, or choose another port with --port."
            ) from None
        raise SetupError(f"Plackett cannot listen on {host} port {port} ({error.strerror}).") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the URL a browser on this machine uses for the socket."""
    host, port = bound.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(bound: socket.socket, workers: int = 1) -> bool:
    """Serve until SIGTERM or SIGINT; return whether the server came up at all."""
    logs.configure("web")
    config = uvicorn.Config(
        APPLICATION,
        workers=workers,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
        # The server's own access log would write addresses out, and an invitation's address is its secret. The
        # application logs a line for each request instead, with the route's pattern.
        access_log=False,
        log_config=logs.config("web"),  # for the workers that it starts
    )
    if workers > 1:
        Multiprocess(config, sockets=[bound]).run()
        return True
    server = uvicorn.Server(config)
    server.run(sockets=[bound])
    return server.started
