"""What the web's tests hold in their hands: a client that sends forms as a browser does, and readers of our pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.auth import cookie_name
from app.models import User

PASSWORD = "gravel umbrella sideways lantern"
MakeUser = Callable[..., User]
SignIn = Callable[[User], "Browser"]


class Browser(TestClient):
    """A client that keeps cookies and follows no redirect unasked; `post_form` adds the token our pages carry."""

    def __init__(self, app: FastAPI, address: str = "192.0.2.1") -> None:
        super().__init__(app, base_url="http://testserver", follow_redirects=False, client=(address, 50000))
        self.csrf_token = ""

    def hold(self, token: str) -> None:
        """Hold this session token, and no other."""
        self.cookies.clear()
        self.cookies.set(cookie_name(), token, domain="testserver.local", path="/")

    @property
    def token(self) -> str:
        """The session token this browser holds."""
        return str(self.cookies[cookie_name()])

    def post_form(self, path: str, data: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """POST a form with this session's token."""
        return self.post(path, data={"csrf_token": self.csrf_token, **(data or {})}, **options)


def csrf_token_in(page: str) -> str:
    """Return the token that a page's forms carry."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found, "the page has no form with a token"
    return found.group(1)
