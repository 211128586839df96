"""Demonstrations, prompts and unjudged answers from elsewhere: all or nothing, once, and marked as what they are."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from run_builders import freeze, make_project, make_user
from sqlalchemy import func, select

from app.db import reading, transaction
from app.errors import InvalidInputError
from app.models import Completion, Demonstration, Import, Project, Prompt, Task, User
from app.services.accounts import accounts
from app.services.data import intake
from app.services.data.exports import Filters
from app.services.data.formats.catalog import FORMATS
from app.services.data.formats.records import Loss
from app.services.data.intake import Report
from app.services.labeling import conversions
from app.services.labeling.conversions import Export

DATA = Path(__file__).parents[5] / "shared" / "data"
USER, BOT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
SFT = {"messages": [USER, BOT]}


@pytest.fixture
def project(database: str) -> Project:
    with transaction() as session:
        return make_project(session, make_user(session), held_out_fraction=0.0)


def bring(project: Project, content: bytes, format_name: str = intake.DETECT, **options: Any) -> Report:
    with transaction() as session:
        return intake.import_file(
            session,
            session.get_one(Project, project.id),
            accounts.admin_named(session, "admin@example.org"),
            io.BytesIO(content),
            format_name=format_name,
            dataset=options.pop("dataset", "elsewhere"),
            **options,
        )


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def exported(project: Project, name: str) -> list[Any]:
    with reading() as moment:
        wanted = Export(project.id, FORMATS[name], Filters())
        return [json.loads(line) for line in b"".join(conversions.chunks(moment, wanted, Loss())).splitlines()]


def counts() -> dict[str, int]:
    with transaction() as session:
        return {
            table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0
            for table in (Prompt, Completion, Task, Demonstration, Import)
        }


def test_a_demonstration_is_marked_as_one_from_elsewhere(project: Project) -> None:
    report = bring(project, lines(SFT, {"prompt": "Who?", "completion": "You."}), dataset="handbook")
    assert report.sentence() == "2 demonstrations of 1 labeler on 2 new prompts."
    assert bring(project, lines(SFT), dataset="a model's", judge="ai").added == 1
    rows = exported(project, "trl-sft")
    assert [row["messages"] for row in rows] == [
        [USER, BOT],
        [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "You."}],
        [USER, BOT],
    ]
    with transaction() as session:
        found = session.execute(
            select(Import.dataset, Task.kind, Task.state, User.is_imported, Prompt.import_id == Demonstration.import_id)
            .select_from(Demonstration)
            .join(Import, Import.id == Demonstration.import_id)
            .join(Task, Task.id == Demonstration.task_id)
            .join(Prompt, Prompt.id == Task.prompt_id)
            .join(User, User.id == Demonstration.user_id)
            .order_by(Demonstration.created_at)
        ).all()
        assert [tuple(row) for row in found] == [
            ("handbook", "import", "closed", True, True),
            ("handbook", "import", "closed", True, True),
            ("a model's", "import", "closed", True, False),
        ]
        owner = session.scalars(select(User).where(User.role == "admin")).one()
        snapshot = freeze(session, session.get_one(Project, project.id), owner)
        assert snapshot.manifest["files"]["demonstrations.jsonl"]["rows"] == 3
        assert snapshot.manifest["imported"] == {"demonstrations": 3}
        assert snapshot.manifest["datasets"] == {
            "a model's": {"demonstrations": 1},
            "handbook": {"demonstrations": 2, "prompts": 2},
        }
        assert snapshot.manifest["judges"] == {"ai": 1, "human": 2}


def test_the_same_demonstration_is_stored_once_and_another_answer_is_another(project: Project) -> None:
    other = {"messages": [USER, {"role": "assistant", "content": "Because."}]}
    first = bring(project, lines(SFT, SFT, other))
    assert (first.added, first.duplicates_in_file, first.prompts) == (2, 1, 1)
    second = bring(project, lines(SFT, other))
    assert (second.added, second.duplicates_in_project, second.prompts) == (0, 2, 0)
    assert counts()["demonstrations"] == 2


def test_prompts_come_with_answers_that_wait_to_be_judged(project: Project) -> None:
    rows = (
        {"prompt": "Why?", "completions": ["So.", {"text": "No.", "model": "m-1"}]},
        {"messages": [USER], "completions": [{"text": "Maybe.", "model": "m-2"}]},
        {"prompt": "Who?", "completions": []},
    )
    report = bring(project, lines(*rows))
    assert (report.of, report.added, report.labelers) == ("prompts", 3, 0)
    assert report.sentence() == "2 new prompts with 3 new answers."
    again = bring(project, lines(*rows))
    assert (again.added, again.duplicates_in_project) == (0, 3)
    one_more = bring(project, lines({"prompt": "Why?", "completions": ["So.", "Perhaps."]}))
    assert one_more.sentence() == "0 new prompts with 1 new answer."
    with transaction() as session:
        found = session.execute(select(Completion.text, Completion.source, Completion.sampling)).all()
    assert sorted((text, source, sampling.get("model")) for text, source, sampling in found) == [
        ("Maybe.", "model", "m-2"), ("No.", "model", "m-1"), ("Perhaps.", "human", None), ("So.", "human", None)
    ]  # fmt: skip
    assert {sampling["import"] for _, _, sampling in found} == {report.import_id, one_more.import_id}
    assert counts()["tasks"] == 0


def test_one_bad_line_and_nothing_is_stored(project: Project) -> None:
    bad = lines(SFT, {"messages": [BOT]}, {"messages": [{"role": "user"}]}) + b'{"messages": [NaN]}\n'
    with pytest.raises(InvalidInputError) as caught:
        bring(project, bad)
    assert [line.split()[1] for line in caught.value.details] == ["3", "4"]
    with pytest.raises(InvalidInputError) as caught:
        bring(project, lines({"prompt": "Why?", "completions": ["a"]}, {"prompt": "Why?", "completions": [1]}))
    assert caught.value.details == ("Line 2 needs an object as each of “completions” that is no text.",)
    assert set(counts().values()) == {0}
    report = bring(project, lines(SFT, {"messages": [USER, BOT, USER]}, {"messages": [USER, {**BOT, "content": " "}]}))
    assert (report.added, report.left_out_lines) == (
        1,
        (
            "Line 2: its conversation does not end on the assistant's turn.",
            "Line 3: its answer has no text.",
        ),
    )


@pytest.mark.parametrize(("name", "rows"), [("seed_tasks", 175), ("user_oriented_instructions", 252)])
@pytest.mark.skipif(not DATA.exists(), reason="the public data are not here")
def test_self_instruct_goes_in_and_comes_out(project: Project, name: str, rows: int) -> None:
    content = (DATA / "self-instruct" / f"{name}.jsonl").read_bytes()
    given = [json.loads(line) for line in content.splitlines()]
    assert len(given) == rows
    report = bring(project, content, dataset=name)
    assert (report.of, report.added + report.duplicates_in_file, report.left_out) == (
        "demonstrations",
        sum(len(row["instances"]) for row in given),
        0,
    )
    back = exported(project, "trl-sft")
    assert len(back) == report.added
    assert {row["messages"][-1]["content"] for row in back} == {
        item["output"] for row in given for item in row["instances"]
    }
    assert bring(project, lines(*back), "trl-sft", dataset=name).duplicates_in_project == report.added


@pytest.mark.skipif(not DATA.exists(), reason="the public data are not here")
def test_questions_and_first_turns_go_in_and_come_out_as_prompts(project: Project) -> None:
    questions = bring(project, (DATA / "mt-bench" / "question.jsonl").read_bytes())
    assert (questions.of, questions.added, questions.completions) == ("prompts", 80, 0)
    trees = (DATA / "open-assistant" / "en_100_tree.jsonl").read_bytes()
    replies = [json.loads(line)["prompt"].get("replies") or [] for line in trees.splitlines()]
    report = bring(project, trees, "oasst-answers", dataset="oasst1")
    assert (report.added, report.prompts, report.completions) == (100, 100, sum(map(len, replies)))
    assert len(exported(project, "trl-prompts")) == 180
    messages = bring(project, (DATA / "open-assistant" / "en_100_message.jsonl").read_bytes(), "oasst-answers")
    assert (messages.added + messages.duplicates_in_file + messages.duplicates_in_project, messages.left_out) == (
        100,
        0,
    )
