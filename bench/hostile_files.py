"""Files that mean harm, through the real web server and the command line: how long until refused, and how much memory.

python -m bench hostile-files [GIB]

Each file is sent in pieces and imported over HTTP (a large one by a worker's process), and given to `plackett import`,
whose seconds of the processor are given too, because a busy machine does not change them much. Memory is the most that
any process held above what it holds idle: the web process, the worker's, the command (above what it holds for a good
file of one line), their children, and PostgreSQL's sessions, sampled twenty times a second. Rows that are left are
counted in all tables that an import writes to.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psycopg

from app import db, migrate
from app.client import Client
from app.embedded.access import using
from app.embedded.folder import make_var
from app.embedded.postgres import PostgresServer
from app.errors import PlackettError
from app.models import User
from app.services.accounts import tokens
from app.services.projects import projects
from app.services.projects.projects import NewProject
from app.settings import get_settings
from bench.export import web
from bench.imports import TABLES

GOOD = b'{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n'
TWENTIETH = 0.05
LIMIT_MIB, LIMIT_SECONDS = 128, 60


@dataclass
class Watch(threading.Thread):
    """Samples what a process, its children and PostgreSQL's sessions hold, in KiB, until the end of the block."""

    roots: list[int]
    peaks: dict[int, int] = field(default_factory=dict)
    firsts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Sample until it is over."""
        while not self._over.wait(TWENTIETH):
            for pid in _with_children(self.roots):
                held = _private(pid)
                self.firsts.setdefault(pid, held)
                self.peaks[pid] = max(self.peaks.get(pid, 0), held)

    def grown(self, idle: dict[int, int], fresh: int) -> int:
        """Return the most that a process held above its idle size, or above `fresh` where it is new, in MiB."""
        return max((peak - idle.get(pid, fresh) for pid, peak in self.peaks.items()), default=0) >> 10


def main(gib: int = 1) -> None:
    """Measure on a fresh PostgreSQL and print a line for each file."""
    with tempfile.TemporaryDirectory() as folder:
        var = make_var(Path(folder) / "var")
        with (
            PostgresServer(var, durable=False) as server,
            using({"DATABASE_URL": server.url, "PLACKETT_VAR": str(var)}),
        ):
            get_settings.cache_clear()
            db.reset_engine()
            migrate.upgrade(server.url)
            token, project = _world()
            with web(server.url) as (address, pid), Client(address, token) as client:
                _measure(server.url, client, pid, project, Path(folder), gib)
            db.reset_engine()


def _world() -> tuple[str, str]:
    with db.transaction() as session:
        admin = User(email="admin@example.org", name="Bench", role="admin", password_hash="-")
        session.add(admin)
        session.flush()
        project = projects.create(session, admin, NewProject(name="Bench", guidelines="Rank.", k=2, overlap=1))
        _, token = tokens.create(session, admin, name="b", scopes=["import:write"], project_id=None, days=1)
        return token, str(project.id)


def files(folder: Path, gib: int) -> Iterator[tuple[str, str, Path]]:
    """Yield each file's name, its format and where it lies; it is gone once the next one is asked for."""

    def lines(*rows: bytes) -> Callable[[Path], None]:
        return lambda path: _write(path, (GOOD, *rows))

    deep = b'{"prompt": "Why?", "chosen": ' + b"[" * 100_000 + b"]" * 100_000 + b', "rejected": "No."}\n'
    made: dict[str, Callable[[Path], None]] = {
        f"one line of {gib} GiB": lambda path: _write(path, (b"x" * (1 << 20) for _ in range(gib << 10))),
        "gzip bomb (1,000 to 1)": lambda path: _gzip_bomb(path, gib),
        "nested 100,000 deep": lines(deep),
        "broken UTF-8": lines(b'{"prompt": "\xff\xfe", "chosen": "So.", "rejected": "No."}\n'),
        "NUL": lines(b'{"prompt": "a\\u0000b", "chosen": "So.", "rejected": "No."}\n'),
        "NaN": lines(b'{"prompt": "Why?", "chosen": "So.", "rejected": "No.", "margin": NaN}\n'),
        "a key twice": lines(b'{"prompt": "Why?", "chosen": "So.", "chosen": "No.", "rejected": "No."}\n'),
        "half a surrogate pair": lines(b'{"prompt": "a\\ud800b", "chosen": "So.", "rejected": "No."}\n'),
        "a number of 100,000 digits": lines(
            b'{"prompt": "Why?", "chosen": "So.", "margin": ' + b"9" * 100_000 + b"}\n"
        ),
        "a million bad lines": lambda path: _write(path, (b'{"unknown": 1}\n' * 1_000 for _ in range(1_000))),
        "a million good lines, then a bad one": lambda path: _write(path, _nearly_good()),
        f"an array of one element of {gib} GiB": lambda path: _write(path, _one_element(gib)),
        "an array of a million bad elements": lambda path: _write(
            path, (b"[", *(b'{"unknown": 1},\n' * 1_000 for _ in range(1_000)), b"{}]")
        ),
        "half a gzip": lambda path: _write(path, (gzip.compress(GOOD * 1_000)[:-20],)),
        "Parquet bomb, equal rows": lambda path: _parquet_bomb(path, "rows"),
        "Parquet bomb, one page": lambda path: _parquet_bomb(path, "page"),
        "Parquet, damaged": lambda path: _write(path, (b"PAR1", os.urandom(4_000), b"PAR1")),
    }
    for name, make in made.items():
        path = folder / "hostile"
        make(path)
        yield name, "trl-text", path
        path.unlink()


def _write(path: Path, pieces: Iterator[bytes] | tuple[bytes, ...]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def _nearly_good() -> Iterator[bytes]:
    row = {"chosen": "So it is.", "rejected": "It is not."}
    for start in range(0, 1_000_000, 1_000):
        yield b"".join(json.dumps(row | {"prompt": f"{n}?"}).encode() + b"\n" for n in range(start, start + 1_000))
    yield b"{}\n"


def _one_element(gib: int) -> Iterator[bytes]:
    yield b'[{"prompt": "'
    yield from (b"x" * (1 << 20) for _ in range(gib << 10))


def _gzip_bomb(path: Path, gib: int) -> None:
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(gib << 10):
            file.write(b"\n" * (1 << 20))


def _parquet_bomb(path: Path, kind: str) -> None:
    """Made by a process of its own: what making it takes must not look like what reading it takes."""
    code = """
import sys, pyarrow as pa, pyarrow.parquet as pq
if sys.argv[2] == "rows":
    one = pa.array(["x" * 900_000]).dictionary_encode().dictionary
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000_000, pa.int32()), one)
else:
    column = pa.array(["x" * (1 << 30)], pa.large_string())
pq.write_table(pa.table({"chosen": column}), sys.argv[1], compression="zstd", use_dictionary=sys.argv[2] == "rows")
"""
    subprocess.run([sys.executable, "-c", code, str(path), kind], check=True)


def _measure(url: str, client: Client, web_pid: int, project: str, folder: Path, gib: int) -> None:
    good = folder / "good"
    good.write_bytes(GOOD)
    client.upload(project, good, "trl-text", "good")
    roots = [web_pid, *_postgres(folder)]
    idle = {pid: _private(pid) for pid in _with_children(roots)}
    fresh = _command(good, [])[2].peaks  # what a command that stores one line holds
    command_idle = max(fresh.values())
    child_idle = _parquet_idle(folder)
    before = _rows(url)
    print(
        f"hostile files: seconds until refused, most MiB above idle, rows left ({LIMIT_SECONDS} s, {LIMIT_MIB} MiB, 0)"
    )
    for name, shape, path in files(folder, gib):
        size = path.stat().st_size
        with Watch(list(roots)) as watch:
            started = time.perf_counter()
            sent = started
            try:
                sent, said = _over_http(client, project, path, shape, lambda: _work(url, watch, idle, command_idle))
            except PlackettError as error:
                said = str(error)
            seconds = time.perf_counter() - sent
        grown = watch.grown(idle, child_idle)
        spent = _children_cpu()
        taken, words, command = _command(path, roots)
        spent = _children_cpu() - spent
        command_grown = command.grown(idle, command_idle if "Parquet" not in name else max(child_idle, command_idle))
        left = _rows(url) - before
        print(f"  {name} ({size:,} bytes)")
        print(f"    web      {seconds:6.1f} s  {grown:4} MiB  {left} rows  {said[:150]}")
        print(
            f"    command  {taken:6.1f} s  {command_grown:4} MiB  {spent:.1f} s of the processor  {words[:130]}",
            flush=True,
        )


def _work(url: str, watch: Watch, idle: dict[int, int], command_idle: int) -> None:
    """Do what waits for a worker, as a worker does: in a process, which is watched like the others."""
    with psycopg.connect(url) as connection:
        if connection.execute("SELECT FROM jobs WHERE state = 'queued'").fetchone() is None:
            return
    child = subprocess.Popen([sys.executable, "-m", "app.worker.job_child"])
    idle[child.pid] = command_idle
    watch.roots.append(child.pid)
    child.wait()


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _over_http(client: Client, project: str, path: Path, shape: str, work: Callable[[], None]) -> tuple[float, str]:
    """Send the file, then time its import alone. Return when it began, and the first line of the refusal."""
    where = client.send(project, path)
    began = time.perf_counter()
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.import_sent, where, shape, "hostile")
            while not asked.done():
                work()
                time.sleep(TWENTIETH)
            asked.result()
    except PlackettError as error:
        client.forget(where)
        return began, " ".join([str(error), *getattr(error, "details", ())[:1]])
    raise AssertionError(f"{path} was taken")


def _command(path: Path, roots: list[int]) -> tuple[float, str, Watch]:
    command = [sys.executable, "-m", "app.cli", "import", str(path), "--project", "Bench", "--by", "admin@example.org"]
    started = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--format", "trl-text", "--dataset", "hostile"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with Watch([child.pid, *roots]) as watch:
        _, said = child.communicate()
    return time.perf_counter() - started, " ".join(said.split("\n")[:2]), watch


def _parquet_idle(folder: Path) -> int:
    """Return what the child process holds for a file of one row, in KiB."""
    path = folder / "one"
    code = "import sys, pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'chosen': ['x']}), sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    with path.open("rb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "app.services.data.parquet.child", "read", "-"], stdin=file, stdout=subprocess.PIPE
        )
        with Watch([child.pid]) as watch:
            child.communicate()
    return max(watch.peaks.values(), default=0)


def _rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in (*TABLES, "imports")]  # noqa: S608
    return sum(int(row[0]) for row in counts if row)


def _postgres(folder: Path) -> list[int]:
    pidfile = folder / "var" / "postgres" / "postmaster.pid"
    return [int(pidfile.read_text(encoding="ascii").splitlines()[0])]


def _with_children(roots: list[int]) -> list[int]:
    found, waiting = [], list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
        except OSError:
            continue
    return found


def _private(pid: int) -> int:
    """Return what a process holds and shares with no file or other process, in KiB: anonymous memory."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
