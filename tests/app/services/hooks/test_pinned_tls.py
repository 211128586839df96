"""Webhooks over TLS: the connection goes to the address that was checked, the certificate has to be the name's."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, make_authority, server_context
from receiver import Receiver, receiving

from app.services.hooks import sending
from app.services.hooks.sending import Message, Outcome
from app.settings import get_settings

HOST = "hooks.test"
Trust = Callable[[Authority], None]
REFUSED = Outcome(None, "It could not be reached, or its certificate does not hold.")


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the name lead here when it is first looked up, and to somebody else's machine ever after."""
    real, asked = socket.getaddrinfo, []

    def look_up(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host != HOST:
            return real(host, port, *more, **options)
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "192.0.2.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trust]:
    """Trust an authority as the operator of a machine does."""

    def trusted(authority: Authority) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        sending._tls.cache_clear()

    yield trusted
    sending._tls.cache_clear()


def send(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    origin = f"https://{HOST}:{receiver.port}"
    monkeypatch.setenv("PLACKETT_WEBHOOK_ORIGINS", json.dumps([origin]))
    monkeypatch.setenv("PLACKETT_WEBHOOK_NETWORKS", json.dumps(["127.0.0.0/8"]))
    get_settings.cache_clear()
    return asyncio.run(sending.send(Message("msg_1", f"{origin}/ok", "whsec_c2VjcmV0", "{}")))


def test_the_address_is_the_one_that_was_checked_and_the_certificate_the_names(
    lookups: list[str], trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path)
    trust(authority)
    with receiving(server_context(authority, HOST, tmp_path)) as receiver:
        assert send(receiver, monkeypatch) == Outcome(204, None)
        ((path, headers, body),) = receiver.requests
        assert (path, headers["host"], body) == ("/ok", f"{HOST}:{receiver.port}", b"{}")
    assert lookups == [HOST], "a second look-up would have led elsewhere"


def test_a_certificate_of_another_name_does_not_hold(
    lookups: list[str], trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path)
    trust(authority)
    with receiving(server_context(authority, "other.test", tmp_path)) as receiver:
        assert send(receiver, monkeypatch) == REFUSED
        assert receiver.requests == []


def test_an_authority_that_nobody_trusts_does_not_hold(
    lookups: list[str], trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trusted").mkdir()
    trust(make_authority(tmp_path / "trusted"))
    with receiving(server_context(make_authority(tmp_path), HOST, tmp_path)) as receiver:
        assert send(receiver, monkeypatch) == REFUSED
        assert receiver.requests == []
