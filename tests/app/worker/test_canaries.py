"""Secrets with recognisable values go in at every door of a real stack; none may come out in a log, problem or file."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import endpoint
import httpx
import psycopg
import pytest
from chat_world import add_models
from sqlalchemy import func, select
from supervision import World, stored, wait_for

from app import queue
from app.auth import cookie_name
from app.db import transaction
from app.embedded import redis as embedded_redis
from app.embedded.folder import make_var
from app.embedded.stack import Part, Stack
from app.models import WebhookDelivery
from app.services.accounts import access, accounts, tokens
from app.services.hooks import webhooks
from app.settings import get_settings

pytestmark = pytest.mark.timeout(600)  # a whole stack, and a training in it

PASSWORD, WRONG, NEW = (f"canary-{name}-password-9f3" for name in ("right", "wrong", "new"))
REDIS, METRICS, KEY = (f"canary-{name}-6b1c" for name in ("redis", "metrics-token", "endpoint-key"))
CELERY_ITSELF = re.compile(
    r"(?ms)^[^\n]*SecurityWarning: .*?_warn_or_raise_security_error[^\n]*$|^worker: Warm shutdown[^\n]*$"
)
OURS = ("web", "worker", "gpu-worker", "beat")


@dataclass
class Doors:
    """The running stack, and what it has said aloud: problem documents and figures."""

    stack: Stack
    var: Path
    world: World
    form_token: str = ""
    secrets: set[str] = field(default_factory=set)
    said: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.stack.url + path, timeout=30, trust_env=False, **options)

    def hear(self, method: str, path: str, status: int, **options: Any) -> None:
        """Ask, and keep the answer among what must hold no secret."""
        answer = self.ask(method, path, **options)
        assert answer.status_code == status, (method, path, answer.text)
        said = answer.text.replace(self.form_token, "") if self.form_token else answer.text  # pages carry it in forms
        self.said[f"{method} {path} {len(self.said)}"] = said + repr(answer.headers)

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield every log and every file of a run directory, as text."""
        for path in (*self.var.glob("log/*"), *self.var.glob("runs/**/*")):
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(self.var)), path.read_bytes().decode("latin-1")

    def log(self, name: str) -> list[dict[str, Any]]:
        """Return a log's events; every line has to be one, but for what Celery says past every log."""
        lines = CELERY_ITSELF.sub("", (self.var / "log" / f"{name}.log").read_text()).splitlines()
        return [json.loads(line) for line in lines if line]


@pytest.fixture
def redis_with_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--requirepass", REDIS, "--dir", str(tmp_path), "--save", ""]
    with subprocess.Popen([str(embedded_redis.program()), *options], stdout=subprocess.DEVNULL) as server:
        monkeypatch.setenv("REDIS_URL", f"redis://:{REDIS}@127.0.0.1:{port}/0")
        get_settings.cache_clear()
        queue.reset_broker()
        yield
        server.terminate()


@pytest.fixture
def doors(redis_with_password: None, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doors]:
    """The whole stack but the model server, with secrets in all its settings."""
    var = make_var(tmp_path / "canary-stack")
    with endpoint.running() as server:
        monkeypatch.setenv("CANARY_KEY_VARIABLE", KEY)
        told = {"lab": {"base_url": server.url, "api_key_env": "CANARY_KEY_VARIABLE"}}
        for name, value in {
            "ENDPOINTS": json.dumps(told),
            "METRICS_TOKEN": METRICS,
            "VAR": str(var),
            "WEBHOOK_ORIGINS": '["https://canary.invalid"]',
        }.items():
            monkeypatch.setenv(f"PLACKETT_{name}", value)
        get_settings.cache_clear()
        with Stack(get_settings(), port=0, parts=(Part.WEB, Part.WORKER, Part.GPU_WORKER, Part.BEAT)) as stack:
            found = Doors(stack, var, world)
            found.secrets |= {PASSWORD, WRONG, NEW, REDIS, METRICS, KEY, unquote(urlsplit(stack.database_url).password)}
            yield found


def test_no_secret_comes_out_in_a_log_a_problem_or_a_file(doors: Doors) -> None:
    people(doors)
    strangers(doors)
    broken_statements(doors)
    hooks(doors)
    training(doors)
    doors.stack.stop()

    secrets = {*doors.secrets, *(secret[4:-4] for secret in doors.secrets)}
    assert len(doors.secrets) > 10
    shapes = re.compile(r"whsec_[A-Za-z0-9+/]{8}|pkt_[0-9a-f]{16}_[0-9a-f]{8}")
    searched = {**doors.said, **dict(doors.files())}
    assert {"log/web.log", "log/worker.log", "log/gpu-worker.log", "log/beat.log"} <= searched.keys()
    assert any(name.endswith("run.json") for name in searched)
    found = [
        (name, at)
        for name, content in searched.items()
        for at in (*(secret for secret in secrets if secret in content), *shapes.findall(content))
    ]
    assert found == []

    # And yet the logs say what happened, each event one line of JSON with what belongs together.
    web, gpu = doors.log("web"), doors.log("gpu-worker")
    failed = next(line for line in web if line["level"] == "error")
    assert "RaiseException" in failed["traceback"]
    assert failed["request_id"] in failed["event"]
    assert any(line.get("route") == "/invite/{token}" and line["status"] == 410 for line in web)
    begun = [line for line in gpu if line["event"] == "the trainer has started"]
    assert {line["job"] for line in begun} == {"plackett.run"}
    ends = {line["run_id"]: line["event"].split(":")[0] for line in gpu if line["event"].startswith("the run has")}
    assert sorted(ends.values()) == ["the run has failed", "the run has succeeded"]
    assert {line["run_id"] for line in begun} < ends.keys(), "the second had no trainer"
    assert all(doors.log(name) for name in OURS)


def people(doors: Doors) -> None:
    """Sign in, wrongly and rightly, invite somebody, redeem, make a token, ask a model with the operator's key."""
    with transaction() as session:
        accounts.create_admin(session, "canary@example.org", "Canary", PASSWORD)
    for password, status in ((WRONG, 401), (PASSWORD, 303)):
        answer = doors.ask("POST", "/sign-in", data={"email": "canary@example.org", "password": password})
        assert answer.status_code == status
        if status == 401:
            doors.said["a refused sign-in"] = answer.text
    cookie = answer.headers["set-cookie"].partition(";")[0]
    signed_in = {"Cookie": cookie}
    with transaction() as session:
        known = access.find_session(session, cookie.partition("=")[2])
        assert known is not None
        form = {"csrf_token": known.csrf_token}
    doors.form_token = known.csrf_token
    doors.secrets |= {cookie.partition("=")[2], known.csrf_token}
    doors.ask(
        "POST", "/account/password", headers=signed_in, data=form | {"current_password": WRONG, "new_password": NEW}
    )
    invited = doors.ask(
        "POST", "/people/invitations", headers=signed_in, data=form | {"email": "b@example.org", "role": "labeler"}
    )
    link = re.search(r"/invite/([\w-]{43})", invited.text)
    assert link is not None, invited.text
    doors.secrets.add(link[1])
    for password in ("short", NEW):
        doors.ask("POST", f"/invite/{link[1]}", data={"name": "B", "password": password})
    doors.hear("GET", f"/invite/{link[1]}", 410)
    doors.hear("POST", "/people/invitations", 403, headers=signed_in, data={"csrf_token": link[1]})

    project = doors.world.project.id
    add_models(project, doors.world.admin, ["refused"])
    page = doors.ask("GET", f"/projects/{project}/chat", headers=signed_in).text
    test = re.search(r"/projects/[\w-]+/chat/[\w-]+/test", page)
    assert test is not None, page
    asked = doors.ask("POST", test[0], headers=signed_in, data=form)
    assert "found=" in asked.headers["location"]
    doors.hear("GET", asked.headers["location"], 200, headers=signed_in)


def strangers(doors: Doors) -> None:
    """Send tokens where they belong and where they do not."""
    with transaction() as session:
        _, right = tokens.create(
            session, doors.world.admin, name="t", scopes=["export:read", "import:write"], project_id=None, days=9
        )
    wrong = f"pkt_{'0' * 16}_{'c' * 64}"
    doors.secrets |= {right, wrong}
    bearer = {"Authorization": f"Bearer {right}"}
    doors.hear("GET", "/api/v1/projects", 200, headers=bearer)
    doors.hear("GET", "/api/v1/projects", 401, headers={"Authorization": f"Bearer {wrong}"})
    doors.hear("GET", "/api/v1/projects", 401, headers={"Authorization": f"Basic {right}"})
    doors.hear("GET", f"/api/v1/projects/{right}", 404, headers=bearer)
    doors.hear("GET", f"/api/v1/projects?cursor={right}", 422, headers=bearer)
    json_of = bearer | {"Content-Type": "application/json"}
    project = f"/api/v1/projects/{doors.world.project.id}"
    doors.hear("POST", f"{project}/prompts", 422, headers=bearer, json={"token": right, "password": PASSWORD})
    doors.hear("POST", f"{project}/prompts", 422, headers=json_of, content=f'{{"{right}": {PASSWORD}')
    doors.hear("GET", "/metrics", 200, headers={"Authorization": f"Bearer {METRICS}"})
    doors.hear("GET", "/metrics", 403, headers={"Authorization": f"Bearer {WRONG}"})
    doors.hear("GET", f"/{PASSWORD}", 404)
    doors.said.pop(next(name for name in doors.said if f"/{PASSWORD}" in name))  # its sign-in link names the address


def broken_statements(doors: Doors) -> None:
    """Let the database fail with the whole row in its message, on a statement whose parameters are secret."""
    with psycopg.connect(doors.stack.database_url) as connection:
        connection.execute(
            "CREATE FUNCTION canary() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'row %', NEW; END $$"
        )
        connection.execute("CREATE TRIGGER canary BEFORE INSERT ON webhooks FOR EACH ROW EXECUTE FUNCTION canary()")
    try:
        with transaction() as session:
            token = access.open_session(session, doors.world.admin, "canary")
            known = access.find_session(session, token)
            assert known is not None
        doors.secrets.add(token)
        answer = doors.ask(
            "POST",
            "/webhooks",
            headers={"Cookie": f"{cookie_name()}={token}"},
            data={"csrf_token": known.csrf_token, "url": "https://canary.invalid/x", "event_run": "yes"},
        )
        assert answer.status_code == 500, answer.text
        doors.said["the page of a fault"] = answer.text
    finally:
        with psycopg.connect(doors.stack.database_url) as connection:
            connection.execute("DROP TRIGGER canary ON webhooks")
            connection.execute("DROP FUNCTION canary()")


def hooks(doors: Doors) -> None:
    """Make a webhook whose messages are signed, and never arrive: its name leads nowhere."""
    with transaction() as session:
        url, events = "https://canary.invalid/hook", ["run.finished"]
        _, secret = webhooks.create(session, doors.world.admin, url=url, events=events, project_id=None)
    doors.secrets.add(secret)


def training(doors: Doors) -> None:
    """Train: once well, once on a snapshot that was changed; both are announced to the webhook."""
    good = doors.world.queue_sft(steps=4)
    wait_for("the run to end", lambda: stored(good).finished_at is not None, 300)
    assert stored(good).state == "succeeded", stored(good).state_reason
    with (Path(doors.world.snapshot.uri) / "prompts.jsonl").open("a") as file:
        file.write(" ")
    bad = doors.world.queue_sft(steps=4)
    wait_for("the second run to end", lambda: stored(bad).finished_at is not None, 60)
    assert stored(bad).state == "failed"

    def tried() -> bool:
        with transaction() as session:
            tried = select(func.count()).where(WebhookDelivery.attempts > 0)
            return (session.scalar(tried) or 0) >= 2

    wait_for("the webhooks to be tried", tried, 60)
