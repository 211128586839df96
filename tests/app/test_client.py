"""The client and `plackett export`, against the application behind a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from run_builders import fill_project, make_project, make_user

from app.client import Client, files
from app.db import transaction
from app.errors import PlackettError
from app.models import User
from app.services.accounts import tokens


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """The application on a port of this machine."""
    config = uvicorn.Config(app, port=0, log_level="critical", ws="none")
    server, bound = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    bound.close()


@pytest.fixture
def token(database: str) -> str:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        fill_project(session, project, [make_user(session, "ada@example.org", "labeler")], [f"{n}?" for n in range(6)])
        return tokens.create(session, admin, name="t", scopes=["export:read"], project_id=None, days=1)[1]


def test_an_export_comes_as_rows_also_when_it_breaks_off(
    address: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(address, token) as client:
        (project,) = client.projects()
        rows = list(client.rows(project["id"]))
        assert len(rows) == 6
        assert len(list(client.rows(project["id"], "trl"))) == 15
        whole, asked = client.chunks, []

        def broken(project_id: str, name: str = "plackett", **filters: object) -> Iterator[bytes]:
            asked.append(filters.get("after"))
            lines = b"".join(whole(project_id, name, **filters)).splitlines(keepends=True)
            if len(asked) == 1:
                yield lines[0] + lines[1] + lines[2][:20]
                raise httpx.ReadError("reset")
            yield b"".join(lines)

        monkeypatch.setattr(client, "chunks", broken)
        assert list(client.rows(project["id"])) == rows
        assert asked == [None, rows[1]["id"]]


def test_the_command_line_writes_a_file_and_says_what_was_lost(address: str, token: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"

    def run(project: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli", "export", str(file), "--project", project, "--url", address, *more]
        environment = os.environ | {"PLACKETT_TOKEN": token, "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)

    done = run("Kindness", "--format", "trl")
    assert done.stdout.startswith("15 rows of 6 rankings, ")
    assert "3 ties" in done.stdout
    assert len([json.loads(line) for line in file.read_bytes().splitlines()]) == 15
    before = file.read_bytes()
    assert run("Kindness", "--format", "none").stderr.startswith("There is no format 'none'")
    assert run("Nothing").stderr == "The token sees no project named “Nothing”.\n"
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (before, [file])


def test_a_refusal_is_the_servers_sentence(address: str, token: str) -> None:
    with Client(address, token[:-4] + "0000") as client, pytest.raises(PlackettError, match="This token is not valid"):
        client.projects()


def test_a_file_is_sent_in_pieces_and_gone_on_with_where_it_broke_off(
    address: str, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction() as session:
        admin = session.query(User).filter_by(role="admin").one()
        other = make_project(session, admin, "Other")
        _, sender = tokens.create(session, admin, name="i", scopes=["import:write"], project_id=other.id, days=1)
    file = tmp_path / "rankings.jsonl"
    with Client(address, token) as client:
        client.save(file, next(item["id"] for item in client.projects() if item["name"] == "Kindness"))
    monkeypatch.setattr(files, "PIECE_BYTES", 1000)
    with Client(address, sender) as client:
        send, sent = client._http.patch, []

        def lossy(where: str, *, content: bytes, headers: dict[str, str]) -> httpx.Response:
            sent.append(int(headers["Upload-Offset"]))
            answer = send(where, content=content, headers=headers)
            if len(sent) == 2:
                raise httpx.ReadError("the answer got lost")
            return answer

        monkeypatch.setattr(client._http, "patch", lossy)
        report = client.upload(other.id, file, "plackett", "ours", progress=True)
        assert (report["added"], report["left_out"]) == (6, 0)
        assert sent == list(range(0, file.stat().st_size, 1000))
        file.write_text("{}\n")
        with pytest.raises(PlackettError, match="Nothing was imported"):
            client.upload(other.id, file, "trl", "bad")


@pytest.mark.parametrize("library", ["datasets", "pandas", "polars"])
def test_an_export_becomes_a_table(address: str, token: str, library: str) -> None:
    with Client(address, token) as client:
        (project,) = client.projects()
        rows = list(client.rows(project["id"], "trl"))
        table = getattr(client, "dataset" if library == "datasets" else library)(project["id"], "trl", progress=True)
    assert {"prompt", "chosen", "rejected", "margin"} <= set(
        getattr(table, "column_names", getattr(table, "columns", ()))
    )
    found = (
        table.to_dict("records")
        if library == "pandas"
        else table.to_dicts()
        if library == "polars"
        else table.to_list()
    )
    assert found == rows
