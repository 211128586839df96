"""Fixtures: one Chromium and one web server for the folder; fresh contexts and an empty database for each test."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import chat_world
import endpoint
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app import db
from app.auth import cookie_name
from app.embedded import web
from app.embedded.postgres import PostgresServer
from app.embedded.process import ChildProcess
from app.embedded.redis import RedisServer
from app.models import User
from app.services.accounts import access, passwords

from .chromium import Watch, arguments, find_chromium

WAIT_MS = 15_000  # what a page does at once may take seconds where other tests have both cores
PASSWORD = "gravel umbrella sideways lantern"
OpenPage = Callable[..., Page]
MakeUser = Callable[..., User]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="FOLDER", help="write the screenshots of the documentation there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs the browser, and leave out the drawing of screenshots where nobody asked for it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
    if config.getoption("--screenshots", None) is None:
        drawing = [item for item in items if item.path.name == "test_screenshots.py"]
        items[:] = [item for item in items if item not in drawing]
        config.hook.pytest_deselected(items=drawing)


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """The folder that `--screenshots` names."""
    folder = Path(request.config.getoption("--screenshots")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class WebServer:
    """The web process: its address and the folder it keeps its data in."""

    address: str
    var: Path


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser process for the whole folder; every page of it lives in a context of its own."""
    path = find_chromium()
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments(), ignore_default_args=["--headless"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def _lab() -> Iterator[endpoint.Endpoint]:
    with endpoint.running() as running:
        yield running


@pytest.fixture
def lab(_lab: endpoint.Endpoint) -> endpoint.Endpoint:
    """The endpoint of models that the web server knows as `lab`; its brake is on, and nothing was asked yet."""
    _lab.go.clear()
    _lab.asked.clear()
    return _lab


@pytest.fixture(scope="package")
def web_server(
    postgres_server: PostgresServer,
    _redis_server: RedisServer,
    _lab: endpoint.Endpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WebServer]:
    """The real web process, started as `plackett up` starts it."""
    folder = tmp_path_factory.mktemp("web")
    bound = web.bind("127.0.0.1", 0)
    address = web.address_of(bound)
    child = ChildProcess(
        "web",
        [sys.executable, "-m", "app.cli", "serve", "--fd", str(bound.fileno())],
        log=folder / "web.log",
        environment={
            **{key: value for key, value in os.environ.items() if not key.startswith("PLACKETT_")},
            "DATABASE_URL": postgres_server.url,
            "REDIS_URL": _redis_server.url,
            "PLACKETT_VAR": str(folder / "var"),
            "PLACKETT_ENDPOINTS": json.dumps({"lab": {"base_url": _lab.url}}),
            "PLACKETT_WEBHOOK_ORIGINS": '["https://hooks.example.org"]',
        },
        working_folder=folder,
        descriptors=[bound.fileno()],
    )
    child.start()
    try:
        # The socket listens only once the process does, so a refusal means "not yet", and an end means "never".
        while child.running and not _answers(f"{address}/livez"):
            child.wait(0.1)
        assert child.running, child.log.read_text()
        yield WebServer(address, folder / "var")
    finally:
        child.stop()
        bound.close()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310  (our own http address)
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False


@pytest.fixture
def address(
    web_server: WebServer, _lab: endpoint.Endpoint, database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The address of the web pages, on an empty database that the test's own calls to services use too."""
    monkeypatch.setenv("PLACKETT_VAR", str(web_server.var))
    chat_world.allow(monkeypatch, _lab.url)
    return web_server.address


@pytest.fixture
def watch(address: str) -> Iterator[Watch]:
    """What the browser must not do; checked when the test is over."""
    watching = Watch(address)
    yield watching
    watching.check()


@pytest.fixture
def open_page(chromium: Browser, watch: Watch) -> Iterator[OpenPage]:
    """Opens a page in a context of its own: `open_page(user, width=390, javascript=False, scheme="dark")`.

    With a user it is signed in, by a session row rather than the form.
    """
    contexts: list[BrowserContext] = []

    def make(
        user: User | None = None,
        *,
        width: int = 1280,
        height: int = 800,
        javascript: bool = True,
        scheme: str = "light",
        scale: float = 1,
    ) -> Page:
        context = chromium.new_context(
            base_url=watch.address,
            viewport={"width": width, "height": height},
            java_script_enabled=javascript,
            color_scheme="dark" if scheme == "dark" else "light",
            device_scale_factor=scale,
            has_touch=width < 700,
            is_mobile=width < 700,
            reduced_motion="reduce",
        )
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        watch.attach(context)
        if user is not None:
            with db.transaction() as session:
                token = access.open_session(session, user, "Chromium")
            context.add_cookies([{"name": cookie_name(), "value": token, "url": watch.address}])
        return context.new_page()

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="package")
def password_hash() -> str:
    """The hash of `PASSWORD`, made once: hashing is slow on purpose."""
    return passwords.hash_password(PASSWORD)


@pytest.fixture
def make_user(address: str, password_hash: str) -> MakeUser:
    """Stores a user with the password `PASSWORD`: `make_user("admin", "Ada Okafor")`."""

    def make(role: str, name: str, *, is_simulated: bool = False) -> User:
        email = f"{name.split()[0].lower()}@example.org" if name.isascii() and name[0].isalpha() else "odd@example.org"
        user = User(email=email, name=name, role=role, password_hash=password_hash, is_simulated=is_simulated)
        with db.transaction() as session:
            session.add(user)
            session.flush()
            session.refresh(user)
        return user

    return make
