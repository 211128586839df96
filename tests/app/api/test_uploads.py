"""Files in pieces: gone on with after a break, imported once they are whole, and nobody else's business."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from run_builders import make_project, make_user
from sqlalchemy import text

from app.db import transaction
from app.services.accounts import tokens
from app.services.data import uploads
from app.settings import get_settings

LINES = b"".join(
    json.dumps({"prompt": f"Why {number}?", "chosen": "So.", "rejected": "No."}).encode() + b"\n" for number in range(9)
)


@dataclass(frozen=True)
class Sender:
    client: Any
    project: str
    token: str

    def call(self, method: str, path: str, content: bytes = b"", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Authorization": f"Bearer {self.token}", "Tus-Resumable": "1.0.0"} | named
        return self.client.request(method, path, content=content, headers=sent)

    def begin(self, size: int = len(LINES)) -> Any:
        return self.call("POST", f"/api/v1/projects/{self.project}/uploads", Upload_Length=str(size))

    def send(self, path: str, offset: int, piece: bytes) -> Any:
        return self.call(
            "PATCH", path, piece, Upload_Offset=str(offset), Content_Type="application/offset+octet-stream"
        )


@pytest.fixture
def senders(database: str, app: FastAPI, client: Any) -> tuple[Sender, Sender]:
    with transaction() as session:
        admin = make_user(session)
        made = []
        for name in ("Kindness", "Other"):
            project = make_project(session, admin, name)
            _, token = tokens.create(session, admin, name="t", scopes=["import:write"], project_id=project.id, days=1)
            made.append(Sender(client, str(project.id), token))
    return made[0], made[1]


def test_a_file_comes_in_pieces_is_gone_on_with_and_imported(senders: tuple[Sender, Sender]) -> None:
    mine, _ = senders
    begun = mine.begin()
    assert (begun.status_code, begun.headers["tus-resumable"]) == (201, "1.0.0")
    path = begun.headers["location"]
    first = mine.send(path, 0, LINES[:100])
    assert (first.status_code, first.headers["upload-offset"]) == (204, "100")
    # The answer got lost: the same piece again is refused, and HEAD says where to go on.
    assert mine.send(path, 0, LINES[:100]).status_code == 409
    early = mine.call("POST", f"{path}/import?format=trl&dataset=d")
    assert (early.status_code, "100 of" in early.json()["detail"]) == (409, True)
    known = mine.call("HEAD", path).headers
    assert (known["upload-offset"], known["upload-length"]) == ("100", str(len(LINES)))
    assert mine.send(path, 100, LINES[100:] + b"x").status_code == 422
    assert mine.send(path, 100, LINES[100:]).status_code == 204
    done = mine.call("POST", f"{path}/import?format=trl&dataset=d")
    assert (done.status_code, done.json()["added"]) == (200, 9)
    assert mine.call("HEAD", path).status_code == 404
    assert list(get_settings().uploads_dir.iterdir()) == []


def test_bytes_that_were_written_but_not_counted_are_written_again(senders: tuple[Sender, Sender]) -> None:
    mine, _ = senders
    path = mine.begin().headers["location"]
    mine.send(path, 0, LINES[:50])
    (file,) = get_settings().uploads_dir.iterdir()
    with file.open("ab") as opened:
        opened.write(b"half a piece")
    assert mine.send(path, 50, LINES[50:]).status_code == 204
    assert file.read_bytes() == LINES


def test_a_refused_file_stays_and_stores_nothing(senders: tuple[Sender, Sender]) -> None:
    mine, _ = senders
    bad = LINES + b"{}\n"
    path = mine.begin(len(bad)).headers["location"]
    mine.send(path, 0, bad)
    refused = mine.call("POST", f"{path}/import?format=trl&dataset=d")
    assert (refused.status_code, refused.json()["details"][0][:8]) == (422, "Line 10 ")
    assert mine.call("HEAD", path).status_code == 200
    with transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM rankings")) == 0
    assert mine.call("DELETE", path).status_code == 204
    assert list(get_settings().uploads_dir.iterdir()) == []


def test_an_upload_of_another_project_cannot_be_seen(senders: tuple[Sender, Sender]) -> None:
    mine, other = senders
    path = mine.begin().headers["location"]
    for method, ending in (("HEAD", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/import?format=trl&dataset=d")):
        assert other.call(method, path + ending, Upload_Offset="0").status_code == 404, method
    assert mine.send(path, 0, LINES).status_code == 204
    assert mine.call("HEAD", f"/api/v1/uploads/{uuid4()}").status_code == 404


def test_there_is_an_end_to_size_number_and_age(senders: tuple[Sender, Sender]) -> None:
    mine, other = senders
    assert mine.begin((4 << 30) + 1).status_code == 413
    for _ in range(uploads.MOST):
        assert mine.begin().status_code == 201
    assert mine.begin().status_code == 409
    assert other.begin().status_code == 201
    with transaction() as session:
        session.execute(text("UPDATE uploads SET created_at = created_at - interval '25 hours'"))
    assert mine.begin().status_code == 201
