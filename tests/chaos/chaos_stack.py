"""The processes that the chaos test torments, the faults it knows, and keeping all of them alive in between."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from app.embedded.folder import make_var
from app.embedded.identity import launch_prefix
from app.embedded.postgres import PostgresServer
from app.embedded.process import ChildProcess
from app.embedded.redis import RedisServer
from app.queue import DEFAULT_QUEUE, GPU_QUEUE
from app.settings import get_settings

LEASE_SECONDS = 6
BEATS = ("beat-1", "beat-2")
GPU_WORKERS = ("gpu-1", "gpu-2")
SMALL_WORKER = "default"
AWAY_SECONDS = (0.1, 1.0)  # what was killed stays away for so long
PAUSE_SECONDS = (0.05, 0.8)
FAINT_SECONDS = 60.0

# How often each fault is drawn that may come at any moment. Most of them find a trainer that is still loading.
FAULTS = {
    "kill gpu": 3,
    "kill default": 3,
    "kill beat": 4,
    "kill redis": 8,
    "kill postgres": 5,
    "kill backend": 7,
    "flush redis": 14,
    "pause gpu": 14,
    "pause trainer": 12,
    "pause default": 9,
    "pause beat": 8,
    "pause redis": 8,
    "pause postgres": 8,
}
# And those that wait until a trainer has come some way. In a faint the worker is gone for so long that another has
# taken its run over: then it wakes up, and must find that it has nothing more to say.
DEEP_FAULTS = {"kill trainer at work": 3, "kill worker at work": 3, "faint worker at work": 2}


def draw(faults: dict[str, int], dice: random.Random) -> str:
    """Draw one of these faults by their weights."""
    return dice.choices(list(faults), list(faults.values()))[0]


@dataclass(frozen=True)
class AtWork:
    """A trainer that has come some way, and the worker that watches it."""

    trainer: int
    run: str
    worker: ChildProcess


class ChaosStack:
    """Postgres, Redis, two beats, a worker for small jobs and two that train, each started again when it is dead."""

    def __init__(self, var: Path, environment: dict[str, str]) -> None:
        self.var = make_var(var)
        self.counts: Counter[str] = Counter()
        # The system outlives what is killed here, so nothing needs to reach the disk; but a commit must be one.
        self.postgres = PostgresServer(var, settings={"fsync": "off", "full_page_writes": "off"})
        self.redis = RedisServer(var)
        self.ours: dict[str, ChildProcess] = {}
        self._environment = environment
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._away: list[PostgresServer | RedisServer] = []

    def start_servers(self) -> None:
        self.postgres.start()
        self.redis.start()

    def start_ours(self) -> None:
        urls = {"DATABASE_URL": self.postgres.url, "REDIS_URL": self.redis.url}
        environment = {**os.environ, **urls, **self._environment}
        celery = [*launch_prefix(None, "KILL"), sys.executable, "-m", "celery", "-A", "chaos_host"]
        worker = ["--pool", "solo", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
        commands = {name: ["worker", "--queues", GPU_QUEUE, *worker, "-n", f"{name}@%h"] for name in GPU_WORKERS}
        commands[SMALL_WORKER] = ["worker", "--queues", DEFAULT_QUEUE, *worker, "-n", "default@%h"]
        for name in BEATS:
            commands[name] = ["beat", "--pidfile", "", "--schedule", str(self.var / "run" / name)]
        for name, words in commands.items():
            log = self.var / "log" / f"{name}.log"
            self.ours[name] = ChildProcess(name, [*celery, *words], log=log, environment=environment)
            self.ours[name].start()

    def stop(self) -> None:
        for process in self.ours.values():
            if process.running:
                _signal_all(process.pid, signal.SIGKILL)
                process.wait(10)
        for server in (self.redis, self.postgres):
            if server.process is not None and server.process.running:
                _signal_all(server.process.pid, signal.SIGCONT)
            server.stop()

    def settle(self) -> None:
        """End all pauses, bring back what is away, and leave it in peace."""
        for _, act in sorted(self._due, key=lambda item: item[0]):
            act()
        self._due = []
        self.look_after()

    def look_after(self) -> None:
        """Do what is due: end pauses, and start what was killed (or has ended by itself) again."""
        now = time.monotonic()
        due, self._due = [i for i in self._due if i[0] <= now], [i for i in self._due if i[0] > now]
        for _, act in sorted(due, key=lambda item: item[0]):
            act()
        for server in (self.postgres, self.redis):
            # Whoever kills the process that recovers a killed Postgres ends that Postgres, though only a child was hit.
            if server not in self._away and server.process is not None and not server.process.running:
                server.start()
        for process in self.ours.values():
            if not process.running:
                process.start()

    def strike(self, fault: str, dice: random.Random) -> None:
        """Do one of `FAULTS`, if there is anybody it can hit."""
        kind, _, target = fault.partition(" ")
        if kind == "flush":
            client = redis.Redis.from_url(self.redis.url, socket_timeout=0.5)
            with contextlib.suppress(redis.RedisError), client:
                client.flushall()
        elif not (pids := self._pids(target, dice)):
            return
        elif kind == "kill":
            _send(pids, signal.SIGKILL)
            self._bring_back(target, dice)
        else:
            _send(pids, signal.SIGSTOP)
            end = time.monotonic() + dice.uniform(*PAUSE_SECONDS)
            self._due.append((end, lambda: _send(pids, signal.SIGCONT)))
        self.counts[fault] += 1

    def strike_at_work(self, fault: str, found: AtWork, fence: Callable[[str], int]) -> None:
        """Do one of `DEEP_FAULTS` to a trainer that has come some way; `fence` looks up a run's present one."""
        match fault.split()[:2]:
            case ["kill", "trainer"]:
                _send([found.trainer], signal.SIGKILL)
            case ["kill", "worker"]:
                _send([found.worker.pid], signal.SIGKILL)
            case _:
                pids, before = [found.worker.pid], fence(found.run)
                _send(pids, signal.SIGSTOP)
                deadline = time.monotonic() + FAINT_SECONDS
                while (fence(found.run) == before or _run_folder(found.trainer)) and time.monotonic() < deadline:
                    time.sleep(0.2)
                    self.look_after()
                _send(pids, signal.SIGCONT)
        self.counts[fault] += 1

    def at_work(self, steps: int) -> list[AtWork]:
        """Return the trainers that have done so many steps in their present life."""
        return [
            AtWork(pid, folder.name, self.ours[name])
            for name in GPU_WORKERS
            for pid in descendants(self.ours[name].pid)
            if (folder := _run_folder(pid)) is not None and _steps_done(pid, folder) >= steps
        ]

    def _pids(self, target: str, dice: random.Random) -> list[int]:
        """Return whom a fault hits: a server with all that belongs to it, one of ours alone, or a trainer."""
        match target:
            case "postgres" | "redis":
                server = self.postgres if target == "postgres" else self.redis
                process = server.process
                return [process.pid, *descendants(process.pid)] if process and process.running else []
            case "backend":
                postmaster = self.postgres.process
                backends = descendants(postmaster.pid) if postmaster and postmaster.running else []
                return [dice.choice(backends)] if backends else []
            case "trainer":
                trainers = [pid for name in GPU_WORKERS for pid in descendants(self.ours[name].pid)]
                return [dice.choice(trainers)] if trainers else []
        names = {"gpu": GPU_WORKERS, "beat": BEATS}.get(target, (target,))
        return [self.ours[dice.choice(names)].pid]

    def _bring_back(self, target: str, dice: random.Random) -> None:
        server = {"postgres": self.postgres, "redis": self.redis}.get(target)
        if server is None:
            return

        def start_again() -> None:
            self._away.remove(server)
            if server.process is None or server.process.wait(10):
                server.start()

        self._away.append(server)
        self._due.append((time.monotonic() + dice.uniform(*AWAY_SECONDS), start_again))


def descendants(pid: int) -> list[int]:
    """Return the children of a process and theirs."""
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def _run_folder(pid: int) -> Path | None:
    """Return the run directory of a process, if it is a trainer."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if "trainer" in words and "--run" in words:
            return Path(words[words.index("--run") + 1])
    return None


def _steps_done(pid: int, folder: Path) -> int:
    """Return how many steps a trainer has done since it was started: it cuts the file back when it begins."""
    try:
        started = Path(f"/proc/{pid}").stat().st_mtime
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return 0
    return sum(line["time"] > started for line in lines)


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _signal_all(pid: int, number: signal.Signals) -> None:
    _send([pid, *descendants(pid)], number)


def environment(tmp: Path, **more: str) -> dict[str, str]:
    """Return the settings of a stack whose leases last seconds."""
    here = str(Path(__file__).parent)
    return {
        "PYTHONPATH": os.pathsep.join([here, str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
        "PLACKETT_VAR": str(tmp),
        "PLACKETT_RUN_LEASE_SECONDS": str(LEASE_SECONDS),
        "PLACKETT_RUN_HEARTBEAT_SECONDS": "0.5",
        "PLACKETT_RUN_RETRY_SECONDS": "0",
        "PLACKETT_RUN_RESEND_SECONDS": "3",
        "PLACKETT_CANCEL_GRACE_SECONDS": "5",
        "PLACKETT_TRAINER_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def apply(values: dict[str, str], setenv: Callable[[str, str], None]) -> None:
    """Let this process see the stack as its children do."""
    for name, value in values.items():
        setenv(name, value)
    get_settings.cache_clear()
