"""Fixtures of the web: strangers, users of each role, and signed-in browsers, on the real application and database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from browsers import PASSWORD, Browser, MakeUser, SignIn
from fastapi import FastAPI

from app import db
from app.main import create_app
from app.models import User
from app.services.accounts import access, passwords

_numbers = count(1)


@pytest.fixture(scope="session")
def _application() -> FastAPI:
    return create_app()


@pytest.fixture
def app(database: str, _application: FastAPI) -> FastAPI:
    """The whole application, on an empty database. Tests that add routes or change settings make their own."""
    return _application


@pytest.fixture
def browser(app: FastAPI) -> Iterator[Callable[[], Browser]]:
    """Makes further clients; all are closed at the end of the test."""
    opened: list[Browser] = []

    def make(address: str = "192.0.2.1") -> Browser:
        opened.append(Browser(app, address))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(browser: Callable[[], Browser]) -> Browser:
    """A stranger's browser."""
    return browser()


@pytest.fixture(scope="session")
def password_hash() -> str:
    """The hash of `PASSWORD`, made once: hashing is slow on purpose."""
    return passwords.hash_password(PASSWORD)


@pytest.fixture
def make_user(database: str, password_hash: str) -> MakeUser:
    """Stores users: `make_user("labeler", name="Kim")`. All have the password `PASSWORD`."""

    def make(role: str = "labeler", **values: Any) -> User:
        number = next(_numbers)
        user = User(
            **{
                "email": f"{role}{number}@example.org",
                "name": f"{role.title()} {number}",
                "role": role,
                "password_hash": password_hash,
                **values,
            }
        )
        with db.transaction() as session:
            session.add(user)
            session.flush()
            session.refresh(user)
        return user

    return make


@pytest.fixture
def sign_in(browser: Callable[[], Browser]) -> SignIn:
    """Signs a user in, by a session row rather than the form, and returns their browser."""

    def make(user: User) -> Browser:
        signed_in = browser()
        with db.transaction() as session:
            token = access.open_session(session, user, "test browser")
            found = access.find_session(session, token)
            assert found is not None
            signed_in.csrf_token = found.csrf_token
        signed_in.hold(token)
        return signed_in

    return make
