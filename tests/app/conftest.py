"""Browsers for the tests of the web: strangers, users of each role, and clients that send forms as a browser does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app import db
from app.models import User
from app.services import access, passwords

PASSWORD = "gravel umbrella sideways lantern"
MakeUser = Callable[..., User]
SignIn = Callable[[User], "Browser"]

_numbers = count(1)


class Browser(TestClient):
    """A client that keeps cookies and follows no redirect unasked; `post_form` adds the token our pages carry."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app, base_url="http://testserver", follow_redirects=False, raise_server_exceptions=True)
        self.csrf_token = ""

    def post_form(self, path: str, data: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """POST a form with this session's token."""
        return self.post(path, data={"csrf_token": self.csrf_token, **(data or {})}, **options)


@pytest.fixture
def app(database: str) -> FastAPI:
    """The whole application, on an empty database."""
    from app.main import create_app

    return create_app()


@pytest.fixture
def browser(app: FastAPI) -> Iterator[Callable[[], Browser]]:
    """Makes further clients; all are closed at the end of the test."""
    opened: list[Browser] = []

    def make() -> Browser:
        opened.append(Browser(app))
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
        from app.auth import cookie_name

        signed_in = browser()
        with db.transaction() as session:
            token = access.open_session(session, user, "test browser")
            found = access.find_session(session, token)
            assert found is not None
            signed_in.csrf_token = found.csrf_token
        signed_in.cookies.set(cookie_name(), token)
        return signed_in

    return make


def csrf_token_in(page: str) -> str:
    """Return the token that a page's forms carry."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found, "the page has no form with a token"
    return found.group(1)
