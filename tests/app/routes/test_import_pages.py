"""The page that imports rankings, as an admin and others use it, without JavaScript."""

from __future__ import annotations

import json
import re
from typing import Any

from run_builders import make_project
from sqlalchemy import func, select

from app.db import transaction
from app.models import Ranking

PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
HH = {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."}


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def count() -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Ranking)) or 0


def test_a_file_is_recognised_stored_and_reported(database: str, make_user: Any, sign_in: Any) -> None:
    admin = make_user("admin")
    with transaction() as session:
        project = make_project(session, admin)
    browser = sign_in(admin)
    path = f"/projects/{project.id}/import"

    def send(content: bytes, name: str = "pairs.jsonl", **fields: str) -> Any:
        data = {"csrf_token": browser.csrf_token, "format": "detect", "dataset": "", "judge": ""} | fields
        files = {"file": (name, content)} if content else {"file": ("", b"")}
        return browser.post(path, data=data, files=files, headers={"Origin": "http://testserver"})

    assert "Nothing yet." in browser.get(path).text
    done = send(lines(PAIR, PAIR | {"prompt": "How?"}, PAIR, PAIR | {"prompt": ""}))
    assert done.status_code == 303
    report = browser.get(done.headers["location"]).text
    assert "Imported from pairs.jsonl" in report
    assert "TRL preference, texts" in report
    assert re.search(r"New rankings</dt><dd[^>]*>2<", report)
    assert "Line 4: its prompt has no text." in report
    assert send(lines(HH), format="detect", dataset="hh", judge="ai").status_code == 303
    assert "hh</a>" in browser.get(path).text
    refused = send(lines(PAIR | {"prompt": "Who?"}, {"prompt": 1}), format="trl-text")
    assert refused.status_code == 422
    assert "Line 2 " in refused.text
    assert "Nothing was imported" in refused.text
    assert re.search(r'value="trl-text" selected', refused.text)
    demonstrated = send(lines({"prompt": "Why?", "completion": "So."}), name="demonstrations.jsonl")
    assert re.search(r"New demonstrations</dt><dd[^>]*>1<", browser.get(demonstrated.headers["location"]).text)
    answered = send(lines({"prompt": "When?", "completions": ["Now.", "Later."]}), name="answers.jsonl")
    told = browser.get(answered.headers["location"]).text
    assert re.search(r"New answers</dt><dd[^>]*>2<", told)
    assert re.search(r"New prompts</dt><dd[^>]*>1<", told)
    assert "choose it" in send(lines({"a": 1})).text
    assert "Choose a file." in send(b"").text
    assert count() == 3
    labeler = sign_in(make_user("labeler"))
    assert labeler.get(path).status_code == 403
    assert labeler.get(done.headers["location"]).status_code == 403
    assert browser.get(f"/projects/{project.id}/imports/{project.id}").status_code == 404
