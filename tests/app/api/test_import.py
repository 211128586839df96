"""Importing over HTTP and from the command line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from run_builders import make_project, make_user

from app.db import transaction
from app.services.accounts import tokens

LINES = b"".join(
    json.dumps({"prompt": f"Why {number}?", "chosen": "So.", "rejected": "No."}).encode() + b"\n" for number in range(3)
)


def test_a_file_is_sent_once_and_stored_whole_or_not_at_all(database: str, app: FastAPI, client: Any) -> None:
    with transaction() as session:
        admin = make_user(session)
        project, other = make_project(session, admin), make_project(session, admin, "Other")
        made = {
            scope: tokens.create(session, admin, name="t", scopes=[scope], project_id=project.id, days=1)[1]
            for scope in ("import:write", "export:read")
        }

    def send(body: bytes, scope: str = "import:write", project_id: Any = project.id, **query: Any) -> Any:
        return client.post(
            f"/api/v1/projects/{project_id}/import",
            params={"format": "trl", "dataset": "d"} | query,
            content=body,
            headers={"Authorization": f"Bearer {made[scope]}"},
        )

    assert send(LINES, "export:read").status_code == 403
    assert send(LINES, project_id=other.id).status_code == 404
    assert send(LINES, format="none").status_code == 422
    assert send(LINES, extra="1").status_code == 422
    refused = send(LINES + b"{}\n")
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["details"][0].startswith("Line 4 ")
    first = send(gzip.compress(LINES))
    assert (first.status_code, first.json()["added"], first.json()["prompts"]) == (200, 3, 3)
    again = send(LINES).json()
    assert (again["added"], again["duplicates_in_project"]) == (0, 3)
    prompts = client.get(
        f"/api/v1/projects/{project.id}/prompts", headers={"Authorization": f"Bearer {made['export:read']}"}
    ).json()["items"]
    assert {(item["import_id"], item["dataset"]) for item in prompts} == {(first.json()["import_id"], "d")}
    exported = client.get(
        f"/api/v1/projects/{project.id}/export?origin=import",
        headers={"Authorization": f"Bearer {made['export:read']}"},
    )
    assert len(exported.content.splitlines()) == 3


def test_the_command_line_imports_and_says_what_it_did(database: str, tmp_path: Path) -> None:
    with transaction() as session:
        make_project(session, make_user(session))
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(LINES)

    def run(project: str) -> subprocess.CompletedProcess[str]:
        options = ["--project", project, "--by", "admin@example.org", "--format", "trl"]
        command = [sys.executable, "-m", "app.cli", "import", str(file), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert run("Kindness").stdout.startswith("3 rankings of 1 labeler on 3 new prompts.")
    assert "3 stood in the project before." in run("Kindness").stdout
    file.write_bytes(LINES + b"[]\n")
    refused = run("Kindness")
    assert refused.returncode == 1
    assert "Line 4 is not a JSON object." in refused.stderr
    assert run("Nothing").stderr == "There is no project named “Nothing”.\n"
