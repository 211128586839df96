"""The export over HTTP: formats, filters, going on where it broke off, compression, and the manifest."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pyarrow.parquet as parquet
import pytest
from backports import zstd
from fastapi import FastAPI
from run_builders import demonstrate, make_project, make_prompts, make_task, make_user, rank
from sqlalchemy import text

from app.db import transaction
from app.models import User
from app.services.accounts import tokens
from app.services.data import pseudonyms
from app.services.data.exports import ExportedRanking
from app.services.data.formats.catalog import FORMATS

Get = Callable[..., Any]

HARD = '<b>\\n "quoted" \x01 😀'


@dataclass(frozen=True)
class Scene:
    path: str
    other: str
    token: str
    lines: list[ExportedRanking]


@pytest.fixture
def get(app: FastAPI, client: Any) -> Get:
    def call(path: str, token: str, encoding: str = "identity", **query: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": encoding}
        return client.get(path, headers=headers, params=query or None)

    return call


@pytest.fixture
def scene(database: str, get: Get) -> Scene:
    with transaction() as session:
        admin = make_user(session)
        ada = make_user(session, "ada@example.org", "labeler")
        robot = make_user(session, "robot@example.org", "labeler", is_simulated=True)
        project = make_project(session, admin, held_out_fraction=0.5)
        prompts = make_prompts(session, project, [f"{number}? {HARD}" for number in range(6)])
        for number, prompt in enumerate(prompts):
            task = make_task(session, prompt, ["=1+1", "B\\n\x01\x02\x7f", 'C "d" \u2028 \\'])
            first = rank(session, task, ada, [[0], [1, 2]], strengths=[2], acceptable=1, reason="Why not.")
            if number == 0:
                rank(session, task, ada, [[1], [0], [2]], supersedes=first.id)
            rank(session, task, robot, [[2, 0], [1]], is_simulated=True)
            if number == 1:
                rank(session, task, admin, [[2], [0]], counted=False, not_counted_reason="late")
        demonstrate(session, prompts[0], ada, "So.")
        other = make_project(session, admin, "Other")
        _, token = tokens.create(session, admin, name="t", scopes=["export:read"], project_id=project.id, days=1)
    path = f"/api/v1/projects/{project.id}/export"
    lines = [ExportedRanking.model_validate_json(line) for line in get(path, token).content.splitlines()]
    return Scene(path, f"/api/v1/projects/{other.id}/export", token, lines)


def test_the_lossless_line_holds_texts_that_are_hard_to_write(scene: Scene) -> None:
    assert len(scene.lines) == 14
    assert [item.text for item in scene.lines[0].completions] == ["=1+1", "B\\n\x01\x02\x7f", 'C "d" \u2028 \\']
    assert scene.lines[0].prompt.messages[0].content == f"0? {HARD}"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_a_file_that_its_manifest_describes(scene: Scene, get: Get, name: str) -> None:
    answer = get(scene.path, scene.token, format=name)
    assert answer.status_code == 200
    manifest = get(f"{scene.path}/manifest", scene.token, format=name).json()
    assert manifest["sha256"] == hashlib.sha256(answer.content).hexdigest()
    assert manifest["bytes"] == len(answer.content) > 0
    if name == "csv":
        rows = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
        assert answer.headers["content-type"].startswith("text/csv")
        assert rows[0]["text"] == "'=1+1"
    else:
        rows = [json.loads(line) for line in answer.content.splitlines()]
    assert manifest["rows"] == len(rows)
    current = {"plackett": 14, "trl-prompts": 6, "trl-sft": 1}.get(name, 12)
    assert manifest["records"] == current


def test_the_manifest_says_what_pairs_lose_and_ties_follow_the_option(scene: Scene, get: Get) -> None:
    def manifest(ties: str) -> Any:
        return get(f"{scene.path}/manifest", scene.token, format="trl", ties=ties).json()

    # One of the twelve has no tie; in the others one of three pairs is one.
    dropped = manifest("drop")
    assert dropped["rows"] == 3 + 11 * 2
    assert dropped["loss"]["dropped"] == {
        "ties": 11,
        "lines": 5,
        "reasons": 5,
        "labelers": 12,
        "judges": 6,
        "sources": 36,
    }
    assert dropped["loss"]["sentences"][0].startswith("11 ties, 5 lines of what is acceptable, 5 reasons, ")
    assert manifest("both")["rows"] == 3 + 11 * 4
    assert manifest("margin0")["rows"] == 3 + 11 * 3
    rows = [
        json.loads(line) for line in get(scene.path, scene.token, format="trl", ties="margin0").content.splitlines()
    ]
    assert [row["margin"] for row in rows if row["tie"]] == [0.0] * 11
    assert {row["prompt_group"] for row in rows} == {str(line.prompt.id) for line in scene.lines}


def test_filters_narrow_what_is_exported(scene: Scene, get: Get) -> None:
    def ids(**query: Any) -> list[str]:
        return [json.loads(line)["id"] for line in get(scene.path, scene.token, **query).content.splitlines()]

    def those(keep: Callable[[ExportedRanking], bool]) -> list[str]:
        return [str(line.id) for line in scene.lines if keep(line)]

    ada, half = pseudonyms.of_labeler("ada@example.org"), scene.lines[7].created_at
    assert ids(labeler=ada) == those(lambda line: line.labeler == ada) != []
    assert ids(judge="simulated") == those(lambda line: line.simulated) != []
    assert ids(counted="false") == those(lambda line: not line.counted) != []
    assert ids(split="held_out") == those(lambda line: line.prompt.split == "held_out") != []
    assert ids(state="current") == those(lambda line: line.counted and not line.superseded) != []
    assert ids(since=half.isoformat()) == those(lambda line: line.created_at >= half) != []
    assert ids(until=half.isoformat()) == those(lambda line: line.created_at < half) != []
    assert ids(guideline_version=1, origin="task") == those(lambda line: True)
    assert ids(guideline_version=2) == ids(origin="edit") == ids(labeler="nobody") == []


def test_an_export_that_broke_off_goes_on_with_the_same_bytes(scene: Scene, get: Get) -> None:
    whole = get(scene.path, scene.token).content
    for lines in (1, 5, 14):
        have = b"".join(whole.splitlines(keepends=True)[:lines])
        last = json.loads(have.splitlines()[-1])["id"]
        assert have + get(scene.path, scene.token, after=last).content == whole


@pytest.mark.parametrize("name", ["trl", "csv", "trl-prompts"])
def test_pages_of_any_format_are_the_whole(scene: Scene, get: Get, client: Any, name: str) -> None:
    whole, pages, path = get(scene.path, scene.token, format=name).content, [], f"{scene.path}?format={name}&limit=4"
    while path:
        answer = get(path, scene.token)
        pages.append(answer.content)
        path = answer.links.get("next", {}).get("url")
    assert len(pages) == (2 if name == "trl-prompts" else 3)
    assert b"".join(pages) == whole


def test_it_is_compressed_as_the_reader_can_undo_it(scene: Scene, get: Get, client: Any) -> None:
    plain = get(scene.path, scene.token)
    assert "content-encoding" not in plain.headers
    for accepted, encoding in (("gzip", "gzip"), ("br, zstd;q=0.5, gzip", "zstd"), ("zstd;q=0, *", None)):
        headers = {"Authorization": f"Bearer {scene.token}", "Accept-Encoding": accepted}
        with client.stream("GET", scene.path, headers=headers) as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers.get("content-encoding") == encoding
        assert answer.headers["vary"] == "Accept-Encoding"
        undo = {"gzip": gzip.decompress, "zstd": zstd.decompress, None: bytes}[encoding]
        assert undo(raw) == plain.content


def test_a_parquet_file_holds_the_same_rows_and_comes_back_in(
    scene: Scene, get: Get, client: Any, tmp_path: Any
) -> None:
    with transaction() as session:
        admin = session.query(User).filter_by(role="admin").one()
        other = UUID(scene.other.split("/")[4])
        _, token = tokens.create(session, admin, name="i", scopes=["import:write"], project_id=other, days=1)
    for name in ("trl", "plackett"):
        answer = get(scene.path, scene.token, "zstd", format=name, file="parquet", state="current")
        assert answer.headers["content-type"] == "application/vnd.apache.parquet"
        assert "content-encoding" not in answer.headers
        rows = parquet.read_table(io.BytesIO(answer.content)).to_pylist()
        lines = [
            json.loads(line)
            for line in get(scene.path, scene.token, format=name, state="current").text.split("\n")[:-1]
        ]
        for row in lines if name == "plackett" else ():
            row["judgements"] = json.dumps(row["judgements"])
        assert rows == lines
        manifest = get(f"{scene.path}/manifest", scene.token, format=name, file="parquet", state="current").json()
        assert (manifest["file"], manifest["bytes"]) == ("parquet", len(answer.content))
        sent = client.post(
            scene.other.replace("export", "import"),
            params={"format": name, "dataset": name},
            content=answer.content,
            headers={"Authorization": f"Bearer {token}"},
        )
        assert (sent.status_code, sent.json()["added"]) == (200, len(rows))
    refused = get(scene.path, scene.token, format="oasst", file="parquet")
    assert (refused.status_code, "no Parquet form" in refused.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"format": "parquet"}, "There is no format"),
        ({"after": str(uuid4())}, "no id of a ranking"),
        ({"format": "trl-sft", "after": str(uuid4())}, "no id of a demonstration"),
        ({"unknown": "1"}, "will not do"),
        ({"since": "2026-01-01T00:00:00"}, "will not do"),
        ({"limit": "0"}, "will not do"),
        ({"guideline_version": str(2**31)}, "will not do"),
    ],
)
def test_what_cannot_be_is_refused_before_a_line_is_sent(scene: Scene, get: Get, query: Any, problem: str) -> None:
    for path in (scene.path, f"{scene.path}/manifest"):
        answer = get(path, scene.token, **query)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem in answer.json()["detail"]
        assert get(path, scene.token).status_code == 200
    from app.db import get_reading_engine

    assert get_reading_engine().pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool


def test_a_token_of_another_project_finds_nothing(scene: Scene, get: Get) -> None:
    for ending in ("", "/manifest"):
        assert get(scene.other + ending, scene.token).status_code == 404
        assert get(scene.path + ending, scene.token).status_code == 200


def test_what_is_quarantined_is_marked_and_not_current(scene: Scene, get: Get) -> None:
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO quarantines (project_id, user_id, reason, created_by) "
                "SELECT project_id, user_id, 'bad', user_id FROM rankings WHERE is_simulated LIMIT 1"
            )
        )
    marked = [json.loads(line)["quarantined"] for line in get(scene.path, scene.token).content.splitlines()]
    assert marked == [line.simulated for line in scene.lines]
    assert len(get(scene.path, scene.token, state="current").content.splitlines()) == 6
