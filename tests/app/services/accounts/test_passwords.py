"""Passwords: OWASP's parameters, two at once, one spelling, and a rule that refuses what is guessed first."""

from __future__ import annotations

import threading

import anyio
import pytest

from app.errors import InvalidInputError
from app.services.accounts import passwords


def refused(password: str, role: str = "labeler", email: str = "kim.lee@example.org", name: str = "Kim Lee") -> bool:
    try:
        passwords.check_strength(password, role, email=email, name=name)
    except InvalidInputError:
        return True
    return False


def test_the_hash_is_argon2id_at_owasps_minimum(password_hash: str) -> None:
    assert password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_the_same_characters_composed_differently_are_the_same_password() -> None:
    stored = passwords.hash_password("caf\u00e9 au lait")
    assert passwords.matches(stored, "cafe\u0301 au lait")
    assert not passwords.matches(stored, "cafe au lait")
    assert not passwords.matches(None, "the password of nobody")


@pytest.mark.parametrize(
    "password",
    [
        "password", "Password1!", "P4$$w0rd", "p@ssw0rd2026", "12345678", "1234567890", "qwertyuiop", "qwerty123",
        "aaaaaaaa", "abcabcab", "letmein!", "Welcome1", "iloveyou", "passwordpassword", "admin1234",
        "plackett", "Plackett2026!", "kimlee123", "kim.lee1", "20261123", "87654321", "asdfghjkl", "zxcvbnm1",
    ],
)  # fmt: skip
def test_what_everybody_tries_first_is_refused(password: str) -> None:
    assert len(password) >= 8
    assert refused(password)


@pytest.mark.parametrize(
    "password", ["walnut tram", "Kx9!tree", "correct horse", "zwölf Boxkämpfer", "mlhzcdfg", "blau-9-Kanu"]
)
def test_an_unusual_password_passes(password: str) -> None:
    assert not refused(password)


def test_reviewers_and_admins_need_fifteen_characters() -> None:
    for role, shortest in (("labeler", 8), ("reviewer", 15), ("admin", 15)):
        long = "walnut tram over gravel"
        assert refused(long[: shortest - 1], role)
        assert not refused(long[:shortest], role)


def test_a_password_has_an_upper_limit() -> None:
    assert refused("walnut tram " * 30)


def test_no_more_than_two_hashes_run_at_once(password_hash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = passwords._HASHER.verify
    running, most, lock = 0, 0, threading.Lock()

    class Counting:
        def verify(self, *arguments: str) -> bool:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            try:
                return bool(real(*arguments))
            finally:
                with lock:
                    running -= 1

    monkeypatch.setattr(passwords, "_HASHER", Counting())

    async def crowd() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(passwords.matches_waiting, password_hash, "wrong")

    threads = [threading.Thread(target=passwords.matches, args=(password_hash, "wrong")) for _ in range(6)]
    for thread in threads:
        thread.start()
    anyio.run(crowd)
    for thread in threads:
        thread.join()
    assert most == passwords.AT_ONCE
