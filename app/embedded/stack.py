"""The whole stack under one supervisor: what the settings do not name is started, watched, and stopped in order.

    with Stack(get_settings(), port=0) as stack:
        print(stack.url, stack.database_url)

Start order: PostgreSQL, Redis, migrations, model server, web, workers, beat. Stop order: web, beat, workers and model
server, Redis, PostgreSQL. A process that dies is reported and started again, each time after a longer pause; one that
keeps dying ends the stack, except the model server, without which all but live chat goes on.
Every child gets a signal from the kernel when the thread that started it ends, so enter the stack from a thread that
outlives it; the next start ends whatever was left over all the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

import httpx
import redis

from app.embedded import web
from app.embedded.access import migrate_to_newest, require_database, state_file
from app.embedded.folder import ProcessRecord, exclusive, make_var, write_private
from app.embedded.identity import launch_prefix
from app.embedded.postgres import PostgresServer
from app.embedded.process import ChildProcess
from app.embedded.redis import RedisServer
from app.errors import SetupError
from app.queue import DEFAULT_QUEUE, GPU_QUEUE, beat_command, worker_command
from app.settings import Settings

START_SECONDS = 60.0
POLL_SECONDS = 0.2
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
STEADY_SECONDS = 60.0  # a process that has run so long is healthy: its next death counts as the first
DEATHS_IN_A_ROW = 5
HIDDEN = ("DATABASE_URL", "REDIS_URL", "PLACKETT_")


class Part(StrEnum):
    """Our own processes. The two servers are no choice: they are started where the settings do not name them."""

    MODELS = "models"
    WEB = "web"
    WORKER = "worker"
    GPU_WORKER = "gpu-worker"
    BEAT = "beat"


@dataclass
class _Watched:
    """A process the supervisor keeps alive: how to start it (again), and what it runs as now."""

    name: str
    start: Callable[[], None]
    process: Callable[[], ChildProcess | None]
    vital: bool = True
    deaths: int = 0
    started_at: float = 0.0
    due_at: float | None = None  # when to start it again; None while it runs


class Stack:
    """Everything that serves one data folder, for as long as it is entered.

    `report` receives one calm sentence for each thing worth telling, from the calling or the watching thread.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        port: int | None = None,
        parts: Sequence[Part] = tuple(Part),
        web_workers: int = 1,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.failure: str | None = None
        self._settings = settings
        self._port = settings.port if port is None else port
        self._parts = frozenset(parts)
        self._web_workers = web_workers
        self._report = report
        self._var = settings.var.absolute()
        self._database_url = settings.database_url
        self._redis_url = settings.redis_url
        self._socket: socket.socket | None = None
        self._models: dict[str, str] = {}
        self._url: str | None = None
        self._resources = contextlib.ExitStack()
        self._watched: list[_Watched] = []
        self._record = ProcessRecord(self._var)
        self._state_file = state_file(self._var)
        self._ended = threading.Event()  # somebody asked for the end, or a process gave up
        self._stopped = threading.Event()  # all children are gone
        self._launching = threading.Lock()  # nothing is started again while all is being stopped
        self._watcher = threading.Thread(target=self._watch, name="plackett-watch", daemon=True)

    @property
    def url(self) -> str:
        """The address of the web pages."""
        return _known(self._url, "the address")

    @property
    def database_url(self) -> str:
        """`DATABASE_URL` of this stack."""
        return _known(self._database_url, "the database")

    @property
    def redis_url(self) -> str:
        """`REDIS_URL` of this stack."""
        return _known(self._redis_url, "Redis")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a child process, or this one, to this stack."""
        found = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url, "PLACKETT_VAR": str(self._var)}
        return found | self._models

    @property
    def processes(self) -> dict[str, int]:
        """Process ids by name, of what runs now."""
        found = ((watched.name, watched.process()) for watched in self._watched)
        return {name: process.pid for name, process in found if process and process.running}

    def start(self) -> None:
        """Start all; raises SetupError with one sentence, with nothing left running, if that cannot be."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        make_var(self._var)
        self._resources.enter_context(exclusive(self._var))
        left_over = self._record.end_left_over()
        self._resources.callback(self._record.clear)
        if left_over:
            self._report(f"Ended what an earlier start had left running: {', '.join(left_over)}.")
        if Part.WEB in self._parts:
            self._socket = web.bind(self._settings.host, self._port)
            self._url = web.address_of(self._socket)
        self._start_database()
        self._start_redis()
        migrate_to_newest(self.database_url)
        self._report("The database has the newest schema.")
        if Part.MODELS in self._parts and self._settings.model_server:
            self._start_models()
        self._resources.callback(self._state_file.unlink, missing_ok=True)
        write_private(self._state_file, json.dumps({"url": self._url, **self.environment}))
        self._start_own()
        self._watcher.start()

    def _start_database(self) -> None:
        if self._database_url is not None:
            require_database(self._database_url)
            return
        server = PostgresServer(self._var)
        self._resources.callback(server.stop)
        self._add("postgres", server.start, lambda: server.process)
        self._database_url = server.url
        self._report("PostgreSQL is ready.")

    def _start_redis(self) -> None:
        if self._redis_url is not None:
            with redis.Redis.from_url(self._redis_url, socket_connect_timeout=5) as client:
                try:
                    client.ping()
                except redis.RedisError as error:  # not fatal: nothing but the start of runs needs Redis
                    self._report(f"Redis at REDIS_URL does not answer ({error}): labeling works, runs wait for it.")
            return
        server = RedisServer(self._var)
        self._resources.callback(server.stop)
        self._add("redis", server.start, lambda: server.process)
        self._redis_url = server.url
        self._report("Redis is ready.")

    def _start_models(self) -> None:
        """Start the model server. Its address and key are known before it, so the others need not wait for it."""
        bound = self._resources.enter_context(web.bind("127.0.0.1", 0))
        bound.listen()  # who asks before it is up waits, instead of being refused
        key = secrets.token_urlsafe(32)
        self._models = {
            "PLACKETT_MODEL_SERVER_URL": f"{web.address_of(bound)}/v1",
            "PLACKETT_MODEL_SERVER_KEY": key,
        }
        options = ["--device", self._settings.trainer_device, "--models", str(self._settings.model_server_models)]
        child = ChildProcess(
            Part.MODELS,
            [
                *launch_prefix(None, "TERM"),
                *(sys.executable, "-m", "trainer.serve", "--fd", str(bound.fileno())),
                *options,
            ],
            log=self._var / "log" / f"{Part.MODELS}.log",
            # As the trainer it needs neither the database nor the broker, so it is not told how to reach them.
            environment={
                **{name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)},
                "PLACKETT_MODEL_SERVER_KEY": key,
                "PYTHONUNBUFFERED": "1",
            },
            descriptors=[bound.fileno()],
        )
        self._add(Part.MODELS, child.start, lambda: child, vital=False)
        self._report("The model server has started; it loads a model when a chat first needs it.")

    def _start_own(self) -> None:
        if self._socket is not None:
            descriptor = self._socket.fileno()
            arguments = ["serve", "--fd", str(descriptor), "--web-workers", str(self._web_workers)]
            child = self._child(
                Part.WEB, [sys.executable, "-m", "app.cli", *arguments], web.DRAIN_SECONDS + 5, [descriptor]
            )
            self._add(Part.WEB, child.start, lambda: child)
            self._wait_for_web(child)
            self._report("The web server is ready.")
        grace = self._settings.cancel_grace_seconds + 15
        for part, command, stop_seconds in (
            (Part.WORKER, worker_command(DEFAULT_QUEUE), 30.0),
            (Part.GPU_WORKER, worker_command(GPU_QUEUE), grace),
            (Part.BEAT, beat_command(self._var / "run" / "beat"), 10.0),
        ):
            if part in self._parts:
                worker = self._child(part, command, stop_seconds)
                self._add(part, worker.start, lambda worker=worker: worker)  # type: ignore[misc]
                self._report(f"The {part} process has started.")

    def _child(
        self, part: Part, command: Sequence[str], stop_seconds: float, descriptors: Sequence[int] = ()
    ) -> ChildProcess:
        return ChildProcess(
            part,
            [*launch_prefix(None, "TERM"), *command],
            log=self._var / "log" / f"{part}.log",
            environment={**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"},
            stop_seconds=stop_seconds,
            descriptors=descriptors,
        )

    def _add(
        self, name: str, start: Callable[[], None], process: Callable[[], ChildProcess | None], *, vital: bool = True
    ) -> None:
        """Start a process and watch it from now on."""
        watched = _Watched(name, start, process, vital)
        self._watched.append(watched)
        self._launch(watched)

    def _launch(self, watched: _Watched) -> None:
        watched.due_at = None
        watched.started_at = time.monotonic()
        watched.start()
        process = watched.process()
        if process is not None:
            self._record.add(watched.name, process.pid)

    def _wait_for_web(self, child: ChildProcess) -> None:
        def probe() -> None:
            httpx.get(f"{self.url}/livez", timeout=5, trust_env=False).raise_for_status()

        child.wait_for(probe, httpx.HTTPError, START_SECONDS, "The web server")

    def _watch(self) -> None:
        """Start again what dies. Runs in its own thread, which outlives every child it has started."""
        while not self._ended.wait(POLL_SECONDS):
            for watched in self._watched:
                if self._ended.is_set():
                    break
                self._look_after(watched)
        self._stopped.wait()

    def _look_after(self, watched: _Watched) -> None:
        process, now = watched.process(), time.monotonic()
        if watched.due_at is not None:
            if now >= watched.due_at:
                self._start_again(watched)
        elif process is not None and not process.running:
            if now - watched.started_at > STEADY_SECONDS:
                watched.deaths = 0
            said = process.last_words()
            self._count_death(watched, f"exit code {process.exit_code}" + (f", {said}" if said else ""))

    def _start_again(self, watched: _Watched) -> None:
        try:
            with self._launching:
                if self._ended.is_set():
                    return
                self._launch(watched)
        except (SetupError, OSError) as error:
            self._count_death(watched, str(error))
        else:
            self._report(f"{watched.name} runs again.")

    def _count_death(self, watched: _Watched, reason: str) -> None:
        watched.deaths += 1
        log = self._var / "log" / f"{watched.name}.log"
        if watched.vital and watched.deaths >= DEATHS_IN_A_ROW:
            self.failure = f"{watched.name} stopped {watched.deaths} times in a row ({reason}): see {log}."
            self._ended.set()
            return
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (watched.deaths - 1), LONGEST_PAUSE_SECONDS)
        watched.due_at = time.monotonic() + pause
        self._report(f"{watched.name} stopped unexpectedly ({reason}); it starts again in {pause:.0f} s. Log: {log}")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until a process has given up (`failure` says which) or `seconds` are over; return whether it has."""
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """Stop all in order and wait for each. May be called twice."""
        self._ended.set()
        with self._launching:
            children = {watched.name: process for watched in self._watched if (process := watched.process())}
        if self._socket is not None:
            self._socket.close()  # new connections are refused from here on; those accepted are still answered
        for group in ((Part.WEB,), (Part.BEAT,), (Part.WORKER, Part.GPU_WORKER, Part.MODELS)):
            asked = [children[part] for part in group if part in children]
            for process in asked:
                process.ask_to_stop()
            for process in asked:
                if not process.wait_or_kill():
                    self._report(f"{process.name} did not stop in {process.stop_seconds:.0f} s and was killed.")
        self._resources.close()  # Redis, PostgreSQL, the lock on the folder
        self._stopped.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _known(value: str | None, what: str) -> str:
    if value is None:
        raise RuntimeError(f"{what} is known only while the stack runs")
    return value
