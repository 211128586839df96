"""The command line as a person uses it: real processes, their output and their exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from run_builders import fake_model_folder
from sqlalchemy import text

from app import db

PLACKETT = [sys.executable, "-m", "app.cli"]
PASSWORD = "correct staple horse battery"


def plackett(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PLACKETT, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | environment,
    )


def assert_refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert re.search(sentence, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1, "one sentence, not a traceback"
    assert done.returncode == 1


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    """`plackett up`: its process, its data folder, its address."""
    var = tmp_path_factory.mktemp("up") / "var"
    unset = {"DATABASE_URL", "REDIS_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    with subprocess.Popen(
        [*PLACKETT, "up", "--port", "0", "--var", str(var)], stdout=subprocess.PIPE, text=True, env=environment
    ) as up:
        assert up.stdout is not None
        for line in up.stdout:
            if found := re.search(r"(http://\S+)  Plackett is running", line):
                break
        else:
            pytest.fail("`plackett up` ended before it was running")
        yield up, var, found[1]
        up.kill()


def test_up_serves_pages_from_a_migrated_database(running):
    _, var, url = running
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert {path.stem for path in (var / "log").glob("*.log")} == {
        *("postgres", "redis", "web", "worker", "gpu-worker", "beat", "models")
    }


def test_create_admin_reaches_the_running_stack_and_the_account_cannot_be_made_twice(running, monkeypatch):
    _, var, _ = running
    monkeypatch.setenv("PLACKETT_VAR", str(var))
    command = ("create-admin", "--email", "ada@example.org", "--name", "Ada", "--password-stdin")
    done = plackett(*command, stdin=PASSWORD + "\n")
    assert (done.returncode, done.stdout) == (0, "ada@example.org can sign in now, as an admin.\n"), done.stderr
    assert_refused(plackett(*command, stdin=PASSWORD + "\n"), "There is an account with this e-mail address already")


def test_a_second_up_on_the_same_folder_is_one_sentence(running):
    up, var, _ = running
    done = plackett("up", "--port", "0", "--var", str(var))
    assert_refused(done, rf"Another Plackett \(process {up.pid}\) is running on .*: stop it first")


def test_sigterm_stops_everything_and_exits_with_0(running):
    up, var, url = running
    pids = [pid for pid, _ in json.loads((var / "run" / "processes.json").read_text()).values()]
    assert len(pids) == 7
    up.send_signal(signal.SIGTERM)
    assert up.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not (var / "run" / "stack.json").exists()


def test_a_port_in_use_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = plackett("up", "--port", str(port))
    assert_refused(done, f"Port {port} on 127.0.0.1 is in use: .* choose another port with --port")


def test_a_database_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone:hidden@127.0.0.1:9/nothing")
    done = plackett("migrate")
    assert_refused(done, "PostgreSQL at DATABASE_URL cannot be used .*: check the address, or unset it")
    assert "hidden" not in done.stderr


def test_a_database_from_a_newer_release_is_one_sentence(database):
    with db.transaction() as session:
        before = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        assert_refused(plackett("migrate"), "used by a newer release, so update this one")
    finally:
        with db.transaction() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :before"), {"before": before})
    assert plackett("migrate").returncode == 0


def test_a_worker_without_servers_says_what_to_set():
    assert_refused(plackett("worker", "--queue", "gpu"), "Set DATABASE_URL and REDIS_URL, or run `plackett up`")


def test_a_base_model_is_published_under_the_address_it_is_registered_by(tmp_path, monkeypatch):
    folder = fake_model_folder(tmp_path / "model")
    assert_refused(plackett("publish", folder), "There is no artifact store: set PLACKETT_ARTIFACTS")
    monkeypatch.setenv("PLACKETT_ARTIFACTS", f"file://{tmp_path / 'store'}")
    assert_refused(plackett("publish", str(tmp_path / "nothing")), "does not exist")
    done = plackett("publish", folder)
    assert done.returncode == 0, done.stderr
    (stored,) = (tmp_path / "store").iterdir()
    assert done.stdout.strip() == f"artifact:{stored.name}"
    assert (stored / "config.json").exists()


def test_a_setting_that_cannot_be_read_is_one_sentence(monkeypatch):
    monkeypatch.setenv("PLACKETT_PORT", "eighty")
    assert_refused(plackett("serve"), r"A setting .* cannot be used \(PLACKETT_PORT: Input should be a valid integer")


def test_a_weak_admin_password_is_refused_and_no_account_is_made(database):
    done = plackett(
        *("create-admin", "--email", "ada@example.org", "--name", "Ada", "--password-stdin"), stdin="too short\n"
    )
    assert_refused(done, "15")
    with db.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM users")) == 0


def test_help_loads_nothing_heavy_and_the_web_application_loads_no_torch():
    heavy = "{'torch', 'transformers', 'sqlalchemy', 'celery', 'fastapi'}"
    for program in (
        f"import sys, app.cli; assert not {heavy} & set(sys.modules)",
        "import sys, app.main; assert not {'torch', 'transformers'} & set(sys.modules)",
        "import sys, app.worker.tasks, app.embedded.stack; assert not {'torch', 'transformers'} & set(sys.modules)",
    ):
        subprocess.run([sys.executable, "-c", program], check=True)
    assert "create-admin" in plackett("--help").stdout
    assert plackett("version").stdout.startswith("plackett 0.")


def test_no_secret_of_the_settings_comes_out_of_a_command_that_cannot_use_them(database: str) -> None:
    # Of the second, psycopg's own sentence would repeat a part.
    key, elsewhere, password = "canary-key-5a1", "canary/else#where-77", "canary-password-5a1"
    token = f"pkt_{'1' * 16}_{'d' * 64}"
    name = ("create-admin", "--email", "c@example.org", "--name", "C", "--password-stdin")
    export = ("export", "x.jsonl", "--project", "none", "--url", "http://127.0.0.1:9")
    assert plackett(*name, stdin=password + "\n").returncode == 0
    assert_refused(plackett(*name, stdin=password + "\n"), "There is an account")
    for command, sentence, environment in (
        (("migrate",), "cannot be used", {"DATABASE_URL": f"postgresql://me:{key}@127.0.0.1:9/x"}),
        (("migrate",), "cannot be used", {"DATABASE_URL": f"postgresql://me:{elsewhere}@127.0.0.1/x"}),
        (("migrate",), "not mysql://", {"DATABASE_URL": f"mysql://me:{key}@127.0.0.1/x"}),
        (("migrate",), "must start with", {"DATABASE_URL": key}),
        (("migrate",), "ENDPOINTS", {"PLACKETT_ENDPOINTS": f'{{"a": {{"base_url": "ftp://x", "api_key": "{key}"}}}}'}),
        (("migrate",), "endpoints", {"PLACKETT_ENDPOINTS": f'{{"a": "{key}'}),
        (("migrate",), "METRICS_TOKEN", {"PLACKETT_METRICS_TOKEN": key}),
        (export, "does not answer", {"PLACKETT_TOKEN": token}),
    ):
        done = plackett(*command, **environment)
        assert_refused(done, sentence)
        for secret in (key, token, "canary", "where-77"):
            assert secret not in done.stdout + done.stderr, environment
