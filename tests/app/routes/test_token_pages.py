"""The page of API tokens: each is shown once, has an end, and can be revoked."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from browsers import Browser, MakeUser, SignIn


@pytest.fixture
def admin(make_user: MakeUser, sign_in: SignIn) -> Browser:
    return sign_in(make_user("admin"))


def test_a_token_is_shown_once_and_can_be_revoked(admin: Browser, client: Any) -> None:
    form = {"name": "nightly job", "scope_export": "yes", "project_id": "", "days": "30"}
    page = admin.post_form("/tokens", form)
    secret = re.search(r"pkt_[0-9a-f]{16}_[0-9a-f]{64}", page.text)
    assert secret is not None
    listed = admin.get("/tokens").text
    assert secret[0] not in listed
    assert "nightly job" in listed
    headers = {"Authorization": f"Bearer {secret[0]}"}
    assert client.get("/api/v1/projects", headers=headers).status_code == 200
    revoke = re.search(r"/tokens/[0-9a-f-]{36}/revoke", listed)
    assert revoke is not None
    assert admin.post_form(revoke[0]).status_code == 303
    assert client.get("/api/v1/projects", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "fields", [{"scope_export": ""}, {"days": "366"}, {"days": "0"}, {"name": ""}, {"project_id": str(uuid4())}]
)
def test_a_token_without_scope_end_or_name_is_not_made(admin: Browser, fields: dict[str, str]) -> None:
    form = {"name": "job", "scope_export": "yes", "project_id": "", "days": "30"} | fields
    page = admin.post_form("/tokens", {key: value for key, value in form.items() if value or key == "project_id"})
    assert page.status_code in (404, 422)
    assert "pkt_" not in page.text.replace("pkt_…", "")
