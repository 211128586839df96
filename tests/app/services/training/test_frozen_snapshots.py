"""What a snapshot is good for: exported in any format, compared with another, described, made beside labelers."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from run_builders import demonstrate, fill_project, freeze, make_project, make_prompts, make_task, make_user, rank
from sqlalchemy import text

from app.db import transaction
from app.errors import ConflictError, InvalidInputError
from app.models import Project, Prompt, Ranking, Snapshot, Task, User
from app.services.data import pseudonyms
from app.services.data.exports import Filters
from app.services.data.formats.catalog import FORMATS, named
from app.services.data.formats.records import Loss
from app.services.labeling import conversions
from app.services.labeling.conversions import Export
from app.services.training import data_cards, snapshot_diffs
from trainer import jsonl, records

MESSAGES = [{"role": "user", "content": "Four?"}]
HARD = 'a "quote" \\ \x01\x7f\u2028 😀\r\n\t='


@pytest.fixture
def people(database: str) -> tuple[Project, User, User, User]:
    with transaction() as session:
        admin = make_user(session)
        ada, bob = (make_user(session, f"{name}@example.org", "labeler") for name in ("ada", "bob"))
        return make_project(session, admin), admin, ada, bob


def frozen(project: Project, admin: User) -> Snapshot:
    with transaction() as session:
        return freeze(session, project, admin)


def exported(project: Project, name: str, snapshot: Snapshot | None, **filters: Any) -> bytes:
    with transaction() as session:
        wanted = Export(project.id, named(name), Filters(**filters), snapshot=snapshot)
        return b"".join(conversions.chunks(session, wanted, Loss()))


def fill(project: Project, ada: User, bob: User) -> None:
    with transaction() as session:
        for prompt in make_prompts(session, project, [f"{number}? {HARD}" for number in range(5)]):
            task = make_task(session, prompt, ["=1", f"B {HARD}", "C"])
            rank(session, task, ada, [[0], [2, 1]], strengths=[2], acceptable=1, reason=HARD)
            rank(session, task, bob, [[2], [0]], is_simulated=True)
        demonstrate(session, prompt, ada, HARD)


def test_each_line_is_spelled_as_the_trainer_spells_it(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    fill(project, ada, bob)
    folder = Path(frozen(project, admin).uri)
    for name in ("prompts", "demonstrations", "comparisons"):
        for line in (folder / f"{name}.jsonl").read_bytes().splitlines():
            assert jsonl.canonical(json.loads(line)) == line
    assert {len(row.pairs()) for row in records.read_comparisons(folder / "comparisons.jsonl")} == {2, 3}


def set_aside(project: Project, labeler: User, admin: User) -> None:
    with transaction() as session:
        session.execute(
            text("INSERT INTO quarantines (project_id, user_id, reason, created_by) VALUES (:p, :u, 'bad', :a)"),
            {"p": project.id, "u": labeler.id, "a": admin.id},
        )


def test_an_export_of_a_snapshot_has_the_same_bytes_whatever_comes_later(
    people: tuple[Project, User, User, User],
) -> None:
    project, admin, ada, bob = people
    fill(project, ada, bob)
    snapshot = frozen(project, admin)
    first = {name: exported(project, name, snapshot) for name in FORMATS}
    for name, file in first.items():
        now = exported(project, name, None, state="current")
        assert len(file.splitlines()) == len(now.splitlines()), name
    with transaction() as session:
        session.execute(text("UPDATE users SET email = 'x' || email"))
        task = session.query(Task).filter_by(kind="ranking").first()
        rank(session, task, make_user(session, "late@example.org", "labeler"), [[0], [1]])
    set_aside(project, bob, admin)
    assert {name: exported(project, name, snapshot) for name in FORMATS} == first
    assert exported(project, "trl", None) != first["trl"]


def test_a_lossless_line_of_a_snapshot_is_that_of_the_export_of_its_time(
    people: tuple[Project, User, User, User],
) -> None:
    project, admin, ada, bob = people
    fill(project, ada, bob)
    snapshot = frozen(project, admin)
    now = [json.loads(line) for line in exported(project, "plackett", None).splitlines()]
    then = [json.loads(line) for line in exported(project, "plackett", snapshot).splitlines()]
    assert sorted(then, key=str) == sorted(now, key=str)
    assert [list(line) for line in then] == [list(line) for line in now]


def test_filters_pages_and_going_on_work_on_a_snapshot(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    fill(project, ada, bob)
    snapshot = frozen(project, admin)
    lines = exported(project, "plackett", snapshot).splitlines()
    after = json.loads(lines[3])["id"]
    assert exported(project, "plackett", snapshot, after=after).splitlines() == lines[4:]
    assert len(exported(project, "plackett", snapshot, judge="simulated").splitlines()) == 5
    moments = sorted(json.loads(line)["created_at"] for line in lines)
    assert exported(project, "plackett", snapshot, since=moments[0]).splitlines() == lines
    assert len(exported(project, "plackett", snapshot, since=moments[2], until=moments[5]).splitlines()) == 3
    with transaction() as session:
        page = Export(project.id, named("trl"), Filters(), limit=4, snapshot=snapshot)
        assert str(conversions.next_after(session, page)) == after
    with pytest.raises(InvalidInputError, match="leave out"):
        exported(project, "trl", snapshot, state="all")
    with pytest.raises(InvalidInputError, match="no id of a line"):
        exported(project, "trl", snapshot, after=str(project.id))


def test_a_snapshot_from_before_ledgers_gets_its_own_when_the_same_data_is_frozen_again(
    people: tuple[Project, User, User, User],
) -> None:
    project, admin, ada, bob = people
    fill(project, ada, bob)
    first = frozen(project, admin)
    with transaction() as session:
        session.execute(text("UPDATE snapshots SET ledger = NULL"))
        old = session.get_one(Snapshot, first.id)
    with pytest.raises(ConflictError, match="Freeze a new one"):
        exported(project, "trl", old)
    again = frozen(project, admin)
    assert (again.id, again.ledger) == (first.id, first.ledger)
    assert exported(project, "trl", again)


def test_the_difference_says_what_came_what_went_and_why(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    with transaction() as session:
        fill_project(session, project, [ada, bob], ["One?", "Two?", "Three?"])
    first = frozen(project, admin)
    with transaction() as session:
        found = session.query(Task).filter_by(kind="ranking").order_by(Task.id).all()
        carl = make_user(session, "carl@example.org", "labeler")
        by_ada = session.query(Ranking).filter_by(user_id=ada.id).first()
        task = next(each for each in found if each.id == by_ada.task_id)
        changed = rank(session, task, ada, [[2], [1], [0]], supersedes=by_ada.id)
        prompt = Prompt(project_id=project.id, position=9, messages=MESSAGES, content_sha256="4", split="train")
        session.add(prompt)
        session.flush()
        new = rank(session, make_task(session, prompt, ["A", "B"]), carl, [[1], [0]])
    set_aside(project, bob, admin)
    second = frozen(project, admin)
    with transaction() as session:
        found_out = snapshot_diffs.compare(session, first, second).as_dict()
        assert snapshot_diffs.compare(session, first, first).as_dict()["comparisons"]["kept"] == 6
    got = found_out["comparisons"]
    assert (got["kept"], got["added"], got["removed"], got["superseded"]) == (2, 2, 4, 1)
    assert got["removed_because"] == {"superseded by a later answer": 1, "set aside by a quarantine": 3}
    assert set(got["added_ids"]) == {str(changed.id), str(new.id)}
    assert str(by_ada.id) in got["removed_ids"]
    by = {pseudonyms.of_labeler(each.email): each for each in (ada, bob, carl)}
    counts = {by[name].email[:3]: (each["added"], each["removed"]) for name, each in got["by"]["labeler"].items()}
    assert counts == {"ada": (1, 1), "bob": (0, 3), "car": (1, 0)}
    assert sum(each["added"] for each in got["by"]["split"].values()) == 2
    assert (found_out["prompts"]["kept"], found_out["prompts"]["added"]) == (3, 1)
    assert found_out["demonstrations"]["kept"] == 3


def test_the_card_says_what_is_in_it_and_what_to_beware_of(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    fill(project, ada, bob)
    snapshot = frozen(project, admin)
    card = (Path(snapshot.uri) / "card.md").read_text()
    assert card == data_cards.markdown(snapshot.manifest, snapshot.sha256)
    assert "| Rankings | 10 |" in card
    assert "Judged by people (6), simulated labelers (5)." in card
    assert "Ranked answers to a ranking: 2 (5), 3 (5)." in card
    assert "5 rankings and 0 demonstrations come from simulated labelers" in card
    assert snapshot.manifest["guidelines"]["1"]["sha256"] in card
    old = {name: snapshot.manifest[name] for name in ("files", "splits", "held_out_fraction", "labelers")}
    assert "# Data card" in data_cards.markdown(old | {"guideline_versions": {"1": 3}}, "0")


def test_labelers_go_on_while_a_snapshot_is_made(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    with transaction() as session:
        fill_project(session, project, [ada], [f"{number}?" for number in range(40)])
        tasks = session.query(Task).filter_by(kind="ranking").order_by(Task.id).all()
    begun, done, made = threading.Event(), threading.Event(), list[Snapshot]()

    def make_it() -> None:
        with transaction() as session:
            begun.set()
            made.append(freeze(session, project, admin))
            # The snapshot's own transaction stays open until labelers have submitted beside it.
            assert done.wait(60)

    maker = threading.Thread(target=make_it)
    maker.start()
    assert begun.wait(60)
    try:
        for task in tasks:
            with transaction() as session:
                session.execute(text("SET LOCAL statement_timeout = 2000"))
                rank(session, task, bob, [[1], [0, 2]])
    finally:
        done.set()
        maker.join()
    held = made[0].manifest["files"]["comparisons.jsonl"]["rows"]
    assert 40 <= held <= 80
    assert frozen(project, admin).manifest["files"]["comparisons.jsonl"]["rows"] == 80
