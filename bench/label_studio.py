"""Importing and exporting the same pairwise comparisons, beside Label Studio, over HTTP, on one PostgreSQL.

python -m bench label-studio [COMPARISONS]

Plackett runs as `plackett up` does (web, worker, beat, Redis, PostgreSQL with its safe settings); Label Studio, in an
environment of its own, as `label-studio start` does, with a database of its own on the same server and without
telemetry. Each round makes a new project on either side. An import has ended when everything is stored; what a
worker does, the client asks after once a second. Seconds of the processor are those of the servers of that side and of
PostgreSQL. What comes back is compared with what was sent, comparison by comparison.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg

from app import db
from app.client import Client
from app.embedded import web
from app.embedded.access import using
from app.embedded.identity import launch_prefix
from app.embedded.postgres import NAME, SUPERUSER
from app.embedded.process import ChildProcess
from app.embedded.stack import Part, Stack
from app.models import User
from app.services.accounts import tokens
from app.services.projects import projects
from app.services.projects.projects import NewProject
from app.settings import Settings
from bench import peers
from bench.export import memory
from bench.imports import write_pairs

T = TypeVar("T")

COMPARISONS, ROUNDS = 10_000, 3
LABEL_STUDIO = "label-studio==1.23.2"
START_SECONDS, LOOK_SECONDS = 600.0, 1.0
LONGEST_SECONDS = 1_800
DATABASE = "label_studio"
MIB = 1 << 20
CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="pw" toName="left,right"/>
  <Text name="left" value="$left"/>
  <Text name="right" value="$right"/>
</View>"""

Comparison = tuple[str, str, str]
"""A prompt, the answer that was preferred, the other one."""


class Lap(NamedTuple):
    """What one import or export took, in seconds: on the clock, and of the processor."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Side:
    """One of the two: how to make a project, import into it, count its rows, and export it to a file, by format.

    `load` returns how many comparisons the server says it stored, `held` how many PostgreSQL holds.
    """

    name: str
    pids: Callable[[], list[int]]
    project: Callable[[], Any]
    load: Callable[[Any], int]
    held: Callable[[Any], int]
    exports: dict[str, Callable[[Any, Path], None]]


def main(comparisons: int = COMPARISONS) -> None:
    """Measure in turns and print the seconds and the ratios."""
    programs = peers.environment(LABEL_STUDIO)
    if programs is None:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # the server's user passes through it
        tasks = _tasks(folder, comparisons)
        (folder / "tasks.json").write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
        with (folder / "tasks.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(task, ensure_ascii=False) + "\n" for task in tasks)
        settings = Settings(_env_file=None, var=folder / "var", database_url=None, redis_url=None)
        with Stack(settings, port=0, parts=(Part.WEB, Part.WORKER, Part.BEAT)) as stack, using(stack.environment):
            with _label_studio(programs, folder, stack) as theirs, _plackett(folder, stack) as ours:
                _measure(ours, theirs, folder, {comparison(task) for task in tasks})
            db.reset_engine()


def _tasks(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return comparisons as tasks of Label Studio, the preferred answer on the left and on the right in turns."""
    pairs = folder / "pairs.jsonl"
    write_pairs(pairs, count)
    found = []
    with pairs.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            row = json.loads(line)
            better, worse = ("left", "right") if number % 2 else ("right", "left")
            data = {"prompt": row["prompt"], better: row["chosen"], worse: row["rejected"]}
            choice = {"from_name": "pw", "to_name": "left,right", "type": "pairwise", "value": {"selected": better}}
            found.append({"data": data, "annotations": [{"result": [choice]}]})
    return found


def comparison(task: dict[str, Any]) -> Comparison:
    """Return what a task of either side says. Plackett writes a prompt as a list of turns."""
    data, (annotation,) = task["data"], task["annotations"]
    (result,) = annotation["result"]
    better = result["value"]["selected"]
    prompt = data["prompt"]
    if not isinstance(prompt, str):
        (prompt,) = (turn["content"] for turn in prompt)
    return prompt, data[better], data["left" if better == "right" else "right"]


@contextmanager
def _plackett(folder: Path, stack: Stack) -> Iterator[Side]:
    with db.transaction() as session:
        admin = User(email="admin@example.org", name="Bench", role="admin", password_hash="-")
        session.add(admin)
        session.flush()
        scopes = ["import:write", "export:read"]
        _, token = tokens.create(session, admin, name="bench", scopes=scopes, project_id=None, days=1)

    def project() -> Any:
        with db.transaction() as session:
            admin = session.query(User).filter_by(role="admin").one()
            name = f"Bench {secrets.token_hex(4)}"
            return projects.create(session, admin, NewProject(name=name, guidelines="Rank.", k=2, overlap=1)).id

    def export(form: str) -> Callable[[Any, Path], None]:
        return lambda to, path: _download(http, f"{stack.url}/api/v1/projects/{to}/export", {"format": form}, path)

    with Client(stack.url, token) as client, _http(f"Bearer {token}") as http:
        yield Side(
            "Plackett",
            lambda: list(stack.processes.values()),
            project,
            lambda to: int(client.upload(to, folder / "tasks.jsonl", "label-studio", "bench")["added"]),
            lambda to: _count(stack, NAME, "rankings", to),
            {"label-studio": export("label-studio"), "lossless": export("plackett")},
        )


@contextmanager
def _label_studio(programs: Path, folder: Path, stack: Stack) -> Iterator[Side]:
    token, data = secrets.token_hex(20), folder / "label-studio"
    data.mkdir()
    with web.bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(programs / "label-studio"), "start", "--no-browser", "--internal-host", "127.0.0.1"]
    person = ["--username", "admin@example.org", "--password", secrets.token_hex(8), "--user-token", token]
    child = ChildProcess(
        "label-studio",
        [*launch_prefix(None, "TERM"), *command, "--port", str(port), *person, "--enable-legacy-api-token"],
        log=folder / "label-studio.log",
        environment={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(data)} | _variables(stack, data),
    )
    child.start()
    try:
        child.wait_for(
            lambda: httpx.get(f"{url}/health", timeout=5).raise_for_status(), httpx.HTTPError, START_SECONDS, child.name
        )
        with _http(f"Token {token}") as http:

            def project() -> Any:
                answer = http.post(f"{url}/api/projects", json={"title": "Bench", "label_config": CONFIG})
                return answer.raise_for_status().json()["id"]

            def load(to: Any) -> int:
                body, headers = (folder / "tasks.json").read_bytes(), {"Content-Type": "application/json"}
                answer = http.post(f"{url}/api/projects/{to}/import", content=body, headers=headers)
                return int(answer.raise_for_status().json()["annotation_count"])

            def export(to: Any, path: Path) -> None:
                _download(http, f"{url}/api/projects/{to}/export", {"exportType": "JSON"}, path)

            def snapshot(to: Any, path: Path) -> None:
                where = f"{url}/api/projects/{to}/exports/"
                made = http.post(where, json={"title": "Bench"}).raise_for_status().json()
                give_up = time.monotonic() + LONGEST_SECONDS
                while made["status"] in {"created", "in_progress"}:
                    if time.monotonic() > give_up:
                        raise TimeoutError(f"Label Studio's export snapshot took more than {LONGEST_SECONDS} seconds.")
                    time.sleep(LOOK_SECONDS)
                    made = http.get(f"{where}{made['id']}").raise_for_status().json()
                _download(http, f"{where}{made['id']}/download", {"exportType": "JSON"}, path)

            yield Side(
                "Label Studio",
                lambda: [child.pid, stack.processes["postgres"]],
                project,
                load,
                lambda to: _count(stack, DATABASE, "task_completion", to),
                {"JSON": export, "JSON, snapshot": snapshot},
            )
    finally:
        child.stop()


def _variables(stack: Stack, data: Path) -> dict[str, str]:
    """Make its database and return the variables by which Label Studio finds it, and those that keep it silent."""
    host, password = _server(stack)
    with _connect(stack, SUPERUSER) as made:
        made.execute(f"CREATE DATABASE {DATABASE}")
    return {
        "DJANGO_DB": "default",
        "POSTGRE_HOST": host,
        "POSTGRE_NAME": DATABASE,
        "POSTGRE_USER": SUPERUSER,
        "POSTGRE_PASSWORD": password,
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }


def _server(stack: Stack) -> tuple[str, str]:
    """Return the folder of PostgreSQL's socket and the superuser's password."""
    secret = Path(stack.environment["PLACKETT_VAR"]) / "run" / "superuser-password"
    return parse_qs(urlsplit(stack.database_url).query)["host"][0], secret.read_text(encoding="utf-8").strip()


def _connect(stack: Stack, database: str) -> psycopg.Connection:
    host, password = _server(stack)
    return psycopg.connect(host=host, user=SUPERUSER, password=password, dbname=database, autocommit=True)


def _count(stack: Stack, database: str, table: str, project: Any) -> int:
    with _connect(stack, database) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE project_id = %s", [project]).fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def _http(authorization: str) -> httpx.Client:
    return httpx.Client(headers={"Authorization": authorization, "Accept-Encoding": "identity"}, timeout=3_600)


def _download(http: httpx.Client, url: str, query: dict[str, str], path: Path) -> None:
    with http.stream("GET", url, params=query) as answer, path.open("wb") as file:
        answer.raise_for_status()
        for block in answer.iter_raw():
            file.write(block)


def _measure(ours: Side, theirs: Side, folder: Path, sent: set[Comparison]) -> None:
    size = (folder / "tasks.json").stat().st_size / MIB
    print(f"label-studio: {len(sent):,} comparisons, {size:.1f} MiB, {ROUNDS} rounds in turns", flush=True)
    laps: dict[tuple[str, str], list[Lap]] = {}
    for number in range(ROUNDS):
        for side in (ours, theirs) if number % 2 else (theirs, ours):
            project = side.project()
            lap, said = _timed(side, lambda: side.load(project))  # noqa: B023
            laps.setdefault((side.name, "import"), []).append(lap)
            held = side.held(project)
            assert said == held == len(sent), f"{side.name} said {said} and holds {held} of {len(sent)}"
            for form, export in side.exports.items():
                path = folder / "export"
                lap, _ = _timed(side, lambda: export(project, path))  # noqa: B023
                laps.setdefault((side.name, f"export, {form}"), []).append(lap)
                _check(path, form, sent)
            print(
                f"  round {number + 1}, {side.name}: {held:,} stored and sent back; "
                + "; ".join(f"{way} {found[-1].wall:.1f} s" for (of, way), found in laps.items() if of == side.name),
                flush=True,
            )
    for (name, way), found in laps.items():
        wall, spent = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"  {name}, {way}: {wall:.2f} s, of the processor {spent:.2f} s")
        for (peer, other), base in laps.items():
            if name == ours.name and peer == theirs.name and other.split(",")[0] == way.split(",")[0]:
                walls, cpus = ([b[at] / f[at] for b, f in zip(base, found, strict=True)] for at in (0, 1))
                print(f"    {peer}, {other}: {_ratios(walls)} times as long, of the processor {_ratios(cpus)}")
    peaks = ", ".join(
        f"{side.name} {max(int(memory(str(pid))) for pid in side.pids()) >> 10}" for side in (ours, theirs)
    )
    print(f"  most memory that one server process held, MiB: {peaks}")


def _ratios(found: list[float]) -> str:
    return f"{statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f})"


def _timed(side: Side, act: Callable[[], T]) -> tuple[Lap, T]:
    started, spent = time.perf_counter(), cpu(side.pids())
    result = act()
    wall = time.perf_counter() - started
    return Lap(wall, cpu(side.pids()) - spent), result


def _check(path: Path, form: str, sent: set[Comparison]) -> None:
    """Raise unless the export holds each comparison once, as it was sent."""
    text = path.read_text(encoding="utf-8")
    if form == "lossless":
        assert text.count("\n") == len(sent)
        return
    rows = json.loads(text) if form.startswith("JSON") else [json.loads(line) for line in text.splitlines()]
    assert len(rows) == len(sent), f"{len(rows)} of {len(sent)} came back"
    assert {comparison(row) for row in rows} == sent, "what came back is not what was sent"


def cpu(roots: list[int]) -> float:
    """Return the seconds of the processor that these processes and all their children have had, ended ones too."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            ticks[int(entry.name)] = sum(int(field) for field in fields[11:15])
    waiting, total = list(roots), 0
    while waiting:
        pid = waiting.pop()
        total += ticks.get(pid, 0)
        waiting += children.get(pid, [])
    return total / os.sysconf("SC_CLK_TCK")
