"""Where webhooks may go: to servers that the operator has named, at public addresses or in named networks."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from pydantic import ValidationError
from receiver import Receiver
from webhook_world import Allow, happen, make, messages

from app.errors import InvalidInputError
from app.models import Project
from app.services.hooks import addresses, sending
from app.settings import Settings
from app.worker import hooks


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x",
        "http://hooks.example.org/x",
        "https://hooks.example.org:8443/x",
        "https://hooks.example.org.evil.example/x",
        "https://hooks.example.org@evil.example/x",
        "https://user:secret@hooks.example.org/x",
        "https://hooks.example.org\\@evil.example/x",
        "https://hooks.example.org/x#y",
        "https://hooks.example.org/\r\nHost: evil.example",
        "https://hooks.exämple.org/",
        "https://hooks.example.org:99999/",
        "gopher://hooks.example.org/x",
        "file:///etc/passwd",
        "hooks.example.org",
        "//hooks.example.org/x",
        "https://",
    ],
)
def test_only_servers_that_the_operator_has_named_are_taken(project: Project, allow: Allow, url: str) -> None:
    allow("https://hooks.example.org")
    with pytest.raises(InvalidInputError):
        make(url)
    for good in ("https://hooks.example.org/x?y=z", "https://HOOKS.example.org:443/x"):
        make(good)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.215.14", True), ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True), ("127.0.0.1", False),
        ("10.1.2.3", False), ("10.9.2.3", True), ("169.254.169.254", False), ("192.168.0.1", False), ("0", False),
        ("224.0.0.1", False), ("::1", False), ("::ffff:127.0.0.1", False), ("::ffff:10.9.0.1", True),
        ("fd00::1", False),        ("fe80::1%eth0", False), ("0x7f.1", False), ("100.64.0.1", False),
    ],
)  # fmt: skip
def test_an_address_is_public_or_of_a_network_that_the_operator_has_named(
    allow: Allow, address: str, allowed: bool
) -> None:
    allow(networks=("10.9.0.0/16",))
    assert addresses.is_allowed(address) is allowed


def test_the_connection_goes_to_the_address_that_was_checked(
    project: Project, receiver: Receiver, allow: Allow, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answers: list[list[str]] = []

    def resolver(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers[0]]

    real = socket.getaddrinfo

    def stub(host: str, *rest: Any, **named: Any) -> Any:
        return resolver(host, *rest, **named) if host == "hooks.test" else real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", stub)
    url = f"http://hooks.test:{receiver.port}"
    allow(url)
    message = sending.Message("1", f"{url}/ok", "whsec_AAAA", "{}")
    for found in (["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["169.254.169.254"], []):
        answers[:] = [found]
        outcome = asyncio.run(sending.send(message))
        assert outcome.status is None
        assert "not called" in (outcome.problem or "")
    assert receiver.requests == []
    answers[:] = [["127.0.0.1"]]
    asked.clear()
    assert asyncio.run(sending.send(message)).status == 204
    assert asked == ["hooks.test"]  # once: nothing is looked up again between the check and the connection
    assert receiver.requests[0][1]["host"] == f"hooks.test:{receiver.port}"


def test_an_origin_that_is_taken_off_the_list_is_not_called_any_more(
    project: Project, receiver: Receiver, allow: Allow
) -> None:
    allow(receiver.url)
    make(f"{receiver.url}/ok")
    allow("https://hooks.example.org")
    happen(project)
    hooks.deliver()
    assert receiver.requests == []
    assert "may not be called" in (messages()[0].last_problem or "")


def test_proxies_of_the_environment_are_not_used(
    project: Project, receiver: Receiver, allow: Allow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    allow(receiver.url)
    make(f"{receiver.url}/ok")
    happen(project)
    hooks.deliver()
    assert receiver.paths == ["/ok"]


def test_settings_refuse_what_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACKETT_WEBHOOK_NETWORKS", '["10.0.0.0/8"]')
    assert str(Settings().webhook_networks[0]) == "10.0.0.0/8"
    monkeypatch.setenv("PLACKETT_WEBHOOK_NETWORKS", '["everything"]')
    with pytest.raises(ValidationError):
        Settings()
