"""Asking an endpoint: whatever it does, the answer is its text or one of our own sentences."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import endpoint
import pytest
from pydantic import ValidationError

from app.services.chat import endpoints
from app.services.chat.endpoints import SENTENCES, EndpointError, Failure, Question
from app.settings import Settings, get_settings

ASKED = [{"role": "user", "content": "Hello?"}]
Configure = Callable[..., None]


@pytest.fixture
def server() -> Iterator[endpoint.Endpoint]:
    with endpoint.running() as running:
        yield running


@pytest.fixture
def configure(server: endpoint.Endpoint, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Allow the server as `lab`, with these further values, and set other settings."""

    def set_up(url: str | None = None, settings: dict[str, str] | None = None, **values: Any) -> None:
        monkeypatch.setenv("PLACKETT_ENDPOINTS", json.dumps({"lab": {"base_url": url or server.url, **values}}))
        for name, value in (settings or {}).items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()

    set_up()
    return set_up


def question(model: str, name: str = "lab") -> Question:
    return Question(name, model, ASKED, temperature=0.5, max_tokens=40)


def ask(model: str, name: str = "lab") -> tuple[str, str | None, Failure | None]:
    """Return text, finish reason and failure."""

    async def collect() -> tuple[str, str | None, Failure | None]:
        text, reason = "", None
        try:
            async for piece in endpoints.ask(question(model, name)):
                text, reason = text + piece.text, piece.finish_reason
        except EndpointError as error:
            return text, reason, error.failure
        return text, reason, None

    return asyncio.run(collect())


def test_an_answer_comes_as_text_with_its_end(server: endpoint.Endpoint, configure: Configure) -> None:
    assert ask("says Good morning to you") == ("Good morning to you", "stop", None)
    assert ask("length") == ("Cut sh", "length", None)
    assert server.asked[0] == {
        "model": "says Good morning to you", "messages": ASKED, "temperature": 0.5, "max_tokens": 40, "stream": True,
    }  # fmt: skip
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("model", "text", "failure"),
    [
        ("401", "", Failure.REFUSED),
        ("403", "", Failure.REFUSED),
        ("404", "", Failure.UNKNOWN_MODEL),
        ("400", "", Failure.UNSUITABLE),
        ("429", "", Failure.BUSY),
        ("503", "", Failure.BUSY),
        ("500", "", Failure.BROKEN),
        ("204", "", Failure.UNREADABLE),
        ("page", "", Failure.UNREADABLE),
        ("cut", "Half of it", Failure.CUT),
        ("ends", "Half of it", Failure.CUT),
        ("empty", "", Failure.EMPTY),
        ("blank", " \n", Failure.EMPTY),
        ("line", "", Failure.TOO_LONG),
        (f"raw {b'data: {broken'.hex()}", "Fine so far", Failure.UNREADABLE),
        (f"raw {b'data: [1]'.hex()}", "Fine so far", Failure.UNREADABLE),
        ("raw " + b'data: {"choices": [7]}'.hex(), "Fine so far", Failure.UNREADABLE),
        ("raw " + b'data: {"choices": [{"delta": {"content": 7}}]}'.hex(), "Fine so far", Failure.UNREADABLE),
        (f"raw {b'data: '.hex()}fffe", "Fine so far", Failure.UNREADABLE),
        (f"raw {(b'data: ' + b'[' * 100_000).hex()}", "Fine so far", Failure.UNREADABLE),
        ("raw " + b'data: {"error": {"message": "SECRET"}}'.hex(), "Fine so far", Failure.BROKEN),
    ],
)
def test_every_fault_of_an_endpoint_has_its_name_and_what_came_before_it_is_kept(
    configure: Configure, model: str, text: str, failure: Failure
) -> None:
    assert ask(model) == (text, None, failure)
    assert "SECRET" not in SENTENCES[failure]


def test_an_answer_without_end_is_stopped(configure: Configure) -> None:
    text, _, failure = ask("endless")
    assert failure is Failure.TOO_LONG
    assert endpoints.MAX_CHARACTERS - 1000 <= len(text) <= endpoints.MAX_CHARACTERS


def test_silence_and_slowness_end_after_the_time_the_operator_gives(configure: Configure) -> None:
    configure(settings={"PLACKETT_CHAT_IDLE_SECONDS": "0.2"})
    assert ask("silent") == ("And then", None, Failure.SILENT)
    configure(settings={"PLACKETT_CHAT_TOTAL_SECONDS": "0.3", "PLACKETT_CHAT_IDLE_SECONDS": "5"})
    assert ask("drips") == ("", None, Failure.TOO_SLOW)


def test_a_redirect_is_not_followed(configure: Configure) -> None:
    with endpoint.running() as elsewhere:
        assert ask(f"moved {elsewhere.url}/chat/completions") == ("", None, Failure.REDIRECTED)
        assert elsewhere.count() == 0
        configure(url=elsewhere.url)
        assert ask("says Hello") == ("Hello", "stop", None)
        assert elsewhere.count() == 1


def test_a_dead_endpoint_and_one_that_speaks_another_language_are_told_apart(configure: Configure) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    configure(url=f"http://127.0.0.1:{port}/v1")
    assert ask("says Hello") == ("", None, Failure.UNREACHABLE)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        speaker = threading.Thread(target=_speak_no_http, args=(stranger,))
        speaker.start()
        configure(url=f"http://127.0.0.1:{stranger.getsockname()[1]}/v1")
        assert ask("says Hello") == ("", None, Failure.UNREADABLE)
        speaker.join()


def _speak_no_http(stranger: socket.socket) -> None:
    connection, _ = stranger.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"220 mail.example.org ESMTP\r\n\r\n")


def test_a_proxy_of_the_environment_is_not_used(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint.running() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert ask("says Hello") == ("Hello", "stop", None)
        assert proxy.count() == 0


def test_a_key_goes_to_its_own_endpoint_and_into_no_log(
    server: endpoint.Endpoint,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.INFO)
    configure(api_key="canary-one")
    assert ask("says Hello")[2] is None
    configure(api_key_env="LAB_KEY")
    assert ask("says Hello")[2] is Failure.REFUSED, "without its key it is not even asked"
    monkeypatch.setenv("LAB_KEY", "canary-two")
    assert ask("500")[2] is Failure.BROKEN
    monkeypatch.delenv("LAB_KEY")
    (tmp_path / ".env").write_text("LAB_KEY=canary-three\n")
    monkeypatch.setitem(Settings.model_config, "env_file", str(tmp_path / ".env"))
    assert ask("500")[2] is Failure.BROKEN
    sent = [headers["Authorization"] for headers in server.headers]
    assert sent == ["Bearer canary-one", "Bearer canary-two", "Bearer canary-three"]
    assert "canary" not in caplog.text
    assert "canary" not in repr(get_settings())
    configure()
    assert ask("says Hello")[2] is None
    assert "Authorization" not in server.headers[-1]


def test_only_what_the_operator_allows_is_asked(server: endpoint.Endpoint, configure: Configure) -> None:
    configure(models=["says Yes"])
    assert ask("says No")[2] is Failure.NOT_ALLOWED
    assert ask("says Yes", "elsewhere")[2] is Failure.NOT_ALLOWED
    assert ask("says Yes")[2] is None
    assert server.count() == 1


@pytest.mark.parametrize(
    "value",
    [
        {"lab": {"base_url": "file:///etc/passwd"}},
        {"lab": {"base_url": "gopher://example.org"}},
        {"lab": {"base_url": "http://user:secret@example.org"}},
        {"lab": {"base_url": "http://example.org/v1?key=1"}},
        {"lab": {"base_url": "http://"}},
        {"lab": {"base_url": "https://example.org", "api_key": "a", "api_key_env": "B"}},
        {"lab": {"base_url": "https://example.org", "follow": True}},
        {"local": {"base_url": "https://example.org"}},
        {"A lab": {"base_url": "https://example.org"}},
    ],
)
def test_an_endpoint_that_cannot_be_meant_is_refused_at_the_start(value: dict[str, Any]) -> None:
    assert Settings(endpoints={"lab": {"base_url": "https://example.org/v1/"}}).endpoints["lab"].base_url[-3:] == "/v1"
    with pytest.raises(ValidationError):
        Settings(endpoints=value)


def test_no_endpoint_at_all_can_be_said_in_two_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    for said in ("null", "{}"):
        monkeypatch.setenv("PLACKETT_ENDPOINTS", said)
        assert Settings().endpoints == {}


def test_every_failure_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Failure)


def test_what_postgres_cannot_hold_does_not_come_through() -> None:
    assert endpoints.storable("a\x00b\ud800c") == "a\N{REPLACEMENT CHARACTER}b?c"
