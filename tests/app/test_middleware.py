"""What every response carries, and how large a request may be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsers import Browser, MakeUser, SignIn

from app.main import create_app
from app.settings import get_settings
from app.templating import static_url

EXPECTED = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}


def test_every_kind_of_response_carries_the_headers(make_user: MakeUser, sign_in: SignIn) -> None:
    def broken() -> None:
        raise ValueError

    app = create_app()
    app.add_api_route("/broken", broken)
    stranger, admin = Browser(app), sign_in(make_user("admin"))
    answers = {
        "page": (200, admin.get("/people")),
        "page for strangers": (200, stranger.get("/sign-in")),
        "reference": (200, stranger.get("/api/docs")),
        "api description": (200, stranger.get("/api/openapi.json")),
        "probe": (200, stranger.get("/livez")),
        "redirect": (303, stranger.get("/people")),
        "wrong password": (401, stranger.post("/sign-in", data={"email": "a@example.org", "password": "x"})),
        "forged": (403, admin.post("/people/invitations")),
        "not found": (404, stranger.get("/nowhere")),
        "api not found": (404, stranger.get("/api/nowhere")),
        "no such file": (404, stranger.get("/static/nothing.css")),
        "wrong method": (405, stranger.put("/sign-in")),
        "gone": (410, stranger.get("/invite/x")),
        "too large": (413, stranger.post("/sign-in", content=b"x" * (1 << 21))),
        "refused form": (422, stranger.post("/sign-in", data={"email": ""})),
        "fragment": (401, stranger.get("/people", headers={"HX-Request": "true"})),
        "broken": (500, stranger.get("/broken")),
        "not ready": (503, stranger.get("/readyz")),
    }
    for kind, (status, answer) in answers.items():
        assert answer.status_code == status, kind
        assert {name: answer.headers.get(name) for name in EXPECTED} == EXPECTED, kind
        assert "server" not in answer.headers, kind
        assert "access-control-allow-origin" not in answer.headers, kind


def test_files_whose_address_names_their_content_are_kept_for_ever(client: Browser) -> None:
    for name in ("plackett.css", "plackett.js", "mark.svg", "vendor/htmx-2.0.11.min.js"):
        named = client.get(static_url(name))
        assert named.status_code == 200
        assert named.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert named.headers["content-security-policy"] == EXPECTED["content-security-policy"]
        assert client.get(f"/static/{name}?v=0123456789ab").headers["cache-control"] == "public, no-cache"
        again = client.get(f"/static/{name}", headers={"If-None-Match": named.headers["etag"]})
        assert again.status_code == 304


def test_static_files_are_compressed_for_browsers_that_take_it_and_pages_never(
    make_user: MakeUser, sign_in: SignIn
) -> None:
    labeler = sign_in(make_user("labeler"))
    plain = labeler.get(static_url("plackett.css"), headers={"Accept-Encoding": "identity"})
    small = labeler.get(static_url("plackett.css"), headers={"Accept-Encoding": "gzip, br"})
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert small.text == plain.text
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"]) / 3
    assert plain.headers["vary"] == small.headers["vary"] == "Accept-Encoding"
    assert small.headers["cache-control"] == plain.headers["cache-control"]
    again = labeler.get("/static/plackett.css", headers={"If-None-Match": small.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-encoding" not in labeler.get("/work", headers={"Accept-Encoding": "gzip"}).headers


def test_static_files_end_at_their_folder(client: Browser) -> None:
    for path in (
        "/static/../main.py",
        "/static/%2e%2e/main.py",
        "/static/..%2fmain.py",
        "/static/vendor/..%2f..%2fmain.py",
    ):
        assert client.get(path).status_code == 404, path


def test_a_body_over_the_limit_is_refused_before_it_is_read(client: Browser) -> None:
    answer = client.post("/sign-in", data={"email": "a@example.org", "password": "x" * (1 << 20)})
    assert answer.status_code == 413
    assert "1,024 KiB" in answer.text


def test_a_body_that_hides_its_length_is_cut_off(client: Browser) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b"email=a%40example.org&password="
        while sent < 64 << 20:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post("/sign-in", content=endless(), headers=headers)
    assert answer.status_code == 413
    # The same way in takes a body of the right size.
    small = client.post("/sign-in", content=iter([b"email=a%40example.org&password=x"]), headers=headers)
    assert small.status_code == 401


def test_a_length_that_is_no_number_is_refused(client: Browser) -> None:
    assert client.post("/sign-in", headers={"Content-Length": "-1"}, content=b"").status_code == 400


def test_the_import_takes_larger_bodies_than_the_other_forms(make_user: MakeUser, sign_in: SignIn) -> None:
    browser = sign_in(make_user("labeler"))
    path = "/projects/0198c0de-0000-7000-8000-000000000000/prompts/import"
    body = b"x" * (2 << 20)
    assert browser.post(path, content=body).status_code == 403  # read, and refused for another reason
    assert browser.post(path + "s", content=body).status_code == 413


def test_only_our_own_host_names_are_served(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    monkeypatch.setenv("PLACKETT_ALLOWED_HOSTS", '["plackett.example"]')
    get_settings.cache_clear()
    with Browser(create_app()) as browser:
        assert browser.get("/livez", headers={"Host": "plackett.example"}).status_code == 200
        refused = browser.get("/livez", headers={"Host": "evil.example"})
    assert refused.status_code == 400
    assert refused.headers["content-security-policy"] == EXPECTED["content-security-policy"]
