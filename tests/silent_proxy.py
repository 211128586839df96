"""A proxy before Postgres' Unix socket that can fall silent: connections stay open, and nothing goes through."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from types import TracebackType
from urllib.parse import parse_qs, quote, urlsplit

NAME = ".s.PGSQL.5432"


class SilentProxy:
    """Passes bytes on in both directions, unless it was told to fall silent."""

    def __init__(self, url: str) -> None:
        # Not in pytest's folder, whose path may be too long for a socket's name.
        self._folder = TemporaryDirectory(prefix="proxy")
        self._server = Path(parse_qs(urlsplit(url).query)["host"][0]) / NAME
        self.url = url.split("?", 1)[0] + f"?host={quote(self._folder.name)}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._open: list[socket.socket] = []
        self._speaking = Event()
        self._speaking.set()

    def fall_silent(self) -> None:
        self._speaking.clear()

    def speak(self) -> None:
        self._speaking.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server))
                self._open += [client, server]
                for source, target in ((client, server), (server, client)):
                    Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._speaking.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def __enter__(self) -> SilentProxy:
        self._listener.bind(str(Path(self._folder.name) / NAME))
        self._listener.listen()
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.speak()
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._folder.cleanup()
