"""Snapshots: deterministic, content-addressed, of what is counted only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_builders import (
    completion_ids,
    demonstrate,
    fill_project,
    make_model,
    make_project,
    make_prompts,
    make_task,
    make_user,
    rank,
)
from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.db import reading, transaction
from app.errors import InvalidInputError, NotFoundError
from app.models import Completion, Project, Prompt, Snapshot, Task, User
from app.services.training import snapshots
from trainer.jsonl import canonical
from trainer.manifest import verify_manifest
from trainer.records import read_comparisons, read_demonstrations, read_prompts


@pytest.fixture
def people(database: str) -> tuple[Project, User, User, User]:
    with transaction() as session:
        admin = make_user(session)
        ada, bob = (make_user(session, f"{name}@example.org", "labeler") for name in ("ada", "bob"))
        return make_project(session, admin), admin, ada, bob


def freeze(project: Project, admin: User) -> Snapshot:
    with transaction() as session:
        return snapshots.create(session, project, admin)


def test_the_files_hold_the_rankings_with_their_ties(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    with transaction() as session:
        [prompt] = make_prompts(session, project, ["Tea or coffee?"])
        task = make_task(session, prompt, ["Tea.", "Coffee.", "Both."])
        rank(session, task, ada, [[2], [1, 0]])
        rank(session, task, bob, [[0], [1], [2]], is_simulated=True)
        demonstrate(session, prompt, ada, "Whichever you like.")
    snapshot = freeze(project, admin)
    folder = Path(snapshot.uri)
    comparisons = read_comparisons(folder / "comparisons.jsonl")
    assert {row.ranking for row in comparisons} == {((2,), (0, 1)), ((0,), (1,), (2,))}
    assert {row.completions for row in comparisons} == {("Tea.", "Coffee.", "Both.")}
    assert [row.id for row in read_prompts(folder / "prompts.jsonl")] == [f"p{prompt.content_sha256[:16]}"]
    assert [row.completion for row in read_demonstrations(folder / "demonstrations.jsonl")] == ["Whichever you like."]
    manifest = verify_manifest(folder)
    assert manifest == snapshot.manifest
    assert manifest["simulated"] == {"comparisons": 1, "demonstrations": 0}
    assert manifest["guideline_versions"] == {"1": 3}
    assert manifest["splits"]["comparisons"] == {prompt.split: 2}
    assert manifest["held_out_fraction"] == project.held_out_fraction


def test_what_was_judged_of_single_answers_stands_by_their_places_and_texts_stay_behind(
    people: tuple[Project, User, User, User],
) -> None:
    project, admin, ada, bob = people
    with transaction() as session:
        [prompt] = make_prompts(session, project, ["Tea or coffee?"])
        task = make_task(session, prompt, ["Tea.", "Coffee.", "Both."])
        _, coffee, both = map(str, completion_ids(session, task))
        judged = {both: {"helpful": 6, "harmful": False, "why": 'both, as "said"\nbefore'}, coffee: {"helpful": 2}}
        rank(session, task, ada, [[2], [1], [0]], judgements=judged)
        rank(session, task, bob, [[0], [1], [2]], judgements={coffee: {"why": "bitter"}})
    snapshot = freeze(project, admin)
    path = Path(snapshot.uri) / "comparisons.jsonl"
    assert {row.ranking[0]: row.judgements for row in read_comparisons(path)} == {
        (2,): ({}, {"helpful": 2.0}, {"helpful": 6.0, "harmful": 0.0}),
        (0,): (),
    }
    assert b"bitter" not in path.read_bytes()
    assert path.read_bytes().count(b"judgements") == 1
    assert snapshot.manifest["rankings_hold"]["with judgements"] == 1
    assert "judgements" in snapshot.manifest["columns"]["comparisons.jsonl"]


def test_a_snapshot_without_judgements_says_nothing_of_them(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, _ = people
    with transaction() as session:
        fill_project(session, project, [ada], ["One?"])
    snapshot = freeze(project, admin)
    assert all(b"judgements" not in path.read_bytes() for path in Path(snapshot.uri).glob("*.json*"))


def test_answers_that_a_limit_of_length_cut_off_are_told_from_those_that_ended(
    people: tuple[Project, User, User, User],
) -> None:
    project, admin, ada, bob = people
    with transaction() as session:
        first, second = (
            make_task(session, prompt, ["Tea.", "Coffee.", "Both, bec"])
            for prompt in make_prompts(session, project, ["Tea or coffee?", "Milk?"])
        )
        for labeler in (ada, bob):
            rank(session, first, labeler, [[2], [1], [0]])
        rank(session, second, ada, [[0], [1, 2]])
    before = freeze(project, admin)
    assert b"ended" not in b"".join(path.read_bytes() for path in Path(before.uri).glob("*.json*"))

    with transaction() as session:
        _, coffee, both = completion_ids(session, first)
        for answer, reason in ((coffee, "stop"), (both, "length")):
            session.execute(
                update(Completion).where(Completion.id == answer).values(source="model", finish_reason=reason)
            )
    after = freeze(project, admin)
    rows = read_comparisons(Path(after.uri) / "comparisons.jsonl")
    assert {(row.messages[-1].content, row.ended) for row in rows} == {
        ("Tea or coffee?", (True, True, False)),
        ("Milk?", ()),
    }
    assert after.manifest["rankings_hold"]["with cut answers"] == 2
    assert "ended" in after.manifest["columns"]["comparisons.jsonl"]
    for line in (Path(after.uri) / "comparisons.jsonl").read_bytes().splitlines():
        assert line == canonical(json.loads(line))


def test_labelers_appear_under_pseudonyms_only(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    with transaction() as session:
        fill_project(session, project, [ada, bob], ["One?"])
    folder = Path(freeze(project, admin).uri)
    everything = "".join(path.read_text() for path in folder.iterdir())
    assert everything.count("labeler-") == 2 + 2  # each in one row and once in the manifest
    for person in (ada, bob):
        assert person.email not in everything
        assert str(person.id) not in everything


def test_superseded_and_uncounted_answers_are_left_out(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    with transaction() as session:
        [prompt] = make_prompts(session, project, ["Tea or coffee?"])
        task = make_task(session, prompt, ["Tea.", "Coffee."])
        first = rank(session, task, ada, [[0], [1]])
        rank(session, task, ada, [[1], [0]], supersedes=first.id)
        rank(session, task, bob, [[0], [1]], counted=False, not_counted_reason="late")
    [row] = read_comparisons(Path(freeze(project, admin).uri) / "comparisons.jsonl")
    assert row.ranking == ((1,), (0,))


def test_freezing_the_same_data_again_returns_the_same_snapshot(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, bob = people
    with transaction() as session:
        fill_project(session, project, [ada], ["One?", "Two?"])
    first = freeze(project, admin)
    assert freeze(project, admin).id == first.id
    with transaction() as session:
        rank(session, session.query(Task).filter_by(kind="ranking").first(), bob, [[0], [1], [2]])
    second = freeze(project, admin)
    assert (first.number, second.number) == (1, 2)
    assert first.sha256 != second.sha256
    assert verify_manifest(Path(first.uri)) == first.manifest


def test_the_same_answers_in_another_order_and_project_have_the_same_hash(
    people: tuple[Project, User, User, User],
) -> None:
    def fill(session: Session, project: Project, labelers: list[User], reverse: bool) -> None:
        prompts = make_prompts(session, project, ["One?", "Two?", "Three?", "Four?"])
        for prompt in reversed(prompts) if reverse else prompts:
            task = make_task(session, prompt, ["Yes.", "No.", "Perhaps."])
            for labeler in reversed(labelers) if reverse else labelers:
                groups = [[0], [1, 2]] if labeler.email.startswith("ada") else [[1], [0], [2]]
                rank(session, task, labeler, [group[::-1] for group in groups] if reverse else groups)
                demonstrate(session, prompt, labeler, f"By {labeler.email[0]}.") if prompt.position == 1 and (
                    labeler is labelers[0]
                ) else None

    project, admin, ada, bob = people
    with transaction() as session:
        fill(session, project, [ada, bob], reverse=False)
        other = make_project(session, admin, "The same elsewhere")
        fill(session, other, [ada, bob], reverse=True)
    assert freeze(project, admin).sha256 == freeze(other, admin).sha256


def test_nothing_from_a_clock_or_a_random_id_is_in_the_files(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, _ = people
    with transaction() as session:
        fill_project(session, project, [ada], ["One?"])
        ids = [str(item) for task in session.query(Task) for item in (task.id, *completion_ids(session, task))]
    snapshot = freeze(project, admin)
    everything = "".join(path.read_text() for path in Path(snapshot.uri).iterdir())
    assert not [item for item in [*ids, str(project.id), str(snapshot.id)] if item in everything]


def test_a_reading_transaction_sees_one_moment_and_writes_nothing(people: tuple[Project, User, User, User]) -> None:
    project, *_ = people
    count = select(func.count()).select_from(Prompt)
    with reading() as moment:
        assert moment.scalar(count) == 0
        with transaction() as session:
            make_prompts(session, project, ["One?"])
        assert moment.scalar(count) == 0
        with pytest.raises(DBAPIError, match="read-only transaction"):
            moment.execute(update(Project).values(name="Other"))
    with reading() as moment:
        assert moment.scalar(count) == 1


def test_a_project_without_answers_has_nothing_to_freeze(people: tuple[Project, User, User, User]) -> None:
    project, admin, *_ = people
    with pytest.raises(InvalidInputError, match="nothing to freeze"):
        freeze(project, admin)


def test_a_damaged_folder_is_written_again(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, _ = people
    with transaction() as session:
        fill_project(session, project, [ada], ["One?"])
    snapshot = freeze(project, admin)
    (Path(snapshot.uri) / "prompts.jsonl").write_text("{}\n")
    assert freeze(project, admin).id == snapshot.id
    verify_manifest(Path(snapshot.uri))
    assert [path.name for path in Path(snapshot.uri).parent.iterdir()] == [snapshot.sha256]


@pytest.mark.parametrize("name", ["../manifest.json", "..", "", "/etc/passwd", "other.jsonl", "prompts.jsonl\x00"])
def test_only_the_files_of_the_manifest_can_be_had(people: tuple[Project, User, User, User], name: str) -> None:
    project, admin, ada, _ = people
    with transaction() as session:
        fill_project(session, project, [ada], ["One?"])
    snapshot = freeze(project, admin)
    assert snapshots.file_of(snapshot, "prompts.jsonl").is_file()
    assert snapshots.file_of(snapshot, "manifest.json").is_file()
    with pytest.raises(NotFoundError):
        snapshots.file_of(snapshot, name)


def test_older_rounds_and_named_policies_weigh_what_the_project_says(people: tuple[Project, User, User, User]) -> None:
    project, admin, ada, _ = people
    with transaction() as session:
        first, second = (
            make_task(session, p, ["Yes.", "No."]) for p in make_prompts(session, project, ["One?", "Two?"])
        )
        rank(session, first, ada, [[0], [1]])
        rank(session, second, ada, [[1], [0]])
    before = freeze(project, admin)
    assert {row.weight for row in read_comparisons(Path(before.uri) / "comparisons.jsonl")} == {1.0}
    assert "rounds" not in before.manifest

    with transaction() as session:
        model = make_model(session, project, admin, "nowhere", "dpo-1")
        session.execute(update(Task).where(Task.id == second.id).values(round=4))
        session.execute(
            update(Completion)
            .where(Completion.id == completion_ids(session, second)[0])
            .values(model_version_id=model.id)
        )
        session.execute(
            update(Project).values(round_weight_percent=50, policy_weights={"dpo-1": 0.2}).returning(Project.id)
        )
    with transaction() as session:
        after = snapshots.create(session, session.get_one(Project, project.id), admin)
    weights = {row.messages[-1].content: row.weight for row in read_comparisons(Path(after.uri) / "comparisons.jsonl")}
    assert weights == {"One?": 0.5, "Two?": 0.6}
    assert after.manifest["rounds"] == {
        "0": {"comparisons": 1, "weight": 0.5},
        "4": {"comparisons": 1, "weight": 0.6},
    }
    assert after.number == before.number + 1
