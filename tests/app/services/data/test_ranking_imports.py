"""Rankings from elsewhere: all or nothing, once, marked as what they are, and never from somebody who can sign in."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from run_builders import freeze, make_project, make_user
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from app.db import reading, transaction
from app.errors import InvalidInputError
from app.models import Completion, Import, Project, Prompt, Ranking, Task, User
from app.services.accounts import accounts
from app.services.data import import_files, intake
from app.services.data.exports import ExportedRanking, Filters
from app.services.data.formats.catalog import FORMATS
from app.services.data.formats.records import Loss
from app.services.data.intake import Report
from app.services.labeling import conversions
from app.services.labeling.conversions import Export
from app.services.training import data_cards

DATA = Path(__file__).parents[5] / "shared" / "data"
HH = DATA / "hh-rlhf" / "harmless-base-test.jsonl.gz"
TREES = DATA / "open-assistant" / "en_100_tree.jsonl"
PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "margin": 2.0}


@pytest.fixture
def project(database: str) -> Project:
    with transaction() as session:
        return make_project(session, make_user(session), held_out_fraction=0.0)


def bring(project: Project, content: bytes, format_name: str = "trl", **options: Any) -> Report:
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


def export(project: Project, name: str = "plackett") -> bytes:
    with reading() as moment:
        wanted = Export(project.id, FORMATS[name], Filters())
        return b"".join(conversions.chunks(moment, wanted, Loss()))


def exported(project: Project) -> list[ExportedRanking]:
    return [ExportedRanking.model_validate_json(line) for line in export(project).splitlines()]


def test_an_imported_ranking_is_marked_as_one(project: Project) -> None:
    def conversation(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]

    sides = {"conversation_a": conversation("So."), "conversation_b": conversation("No.")}
    battle = {"model_a": "m", "model_b": "n", "winner": "model_b", "judge": "judge 7", **sides}
    assert bring(project, lines(battle), "arena", dataset="arena 2024").added == 1
    assert bring(project, lines(PAIR), judge="ai").prompts == 0
    human, ai = exported(project)
    assert (human.origin, human.dataset, human.judge, human.guideline_version) == ("import", "arena 2024", "human", 0)
    assert (ai.origin, ai.dataset, ai.judge, ai.strengths) == ("import", "elsewhere", "ai", [2])
    texts = {item.id: (item.text, item.model_version) for item in human.completions}
    assert [[texts[item] for item in group] for group in human.ranking] == [[("No.", "n")], [("So.", "m")]]
    assert human.labeler != ai.labeler
    with transaction() as session:
        assert set(session.scalars(select(Task.kind))) == {"import"}
        snapshot = freeze(
            session,
            session.get_one(Project, project.id),
            session.scalars(select(User).where(User.role == "admin")).one(),
        )
        assert snapshot.manifest["guideline_versions"] == {"0": 2}
        assert snapshot.manifest["imported"] == {"comparisons": 2}
        assert snapshot.manifest["datasets"] == {
            "arena 2024": {"comparisons": 1, "prompts": 1},
            "elsewhere": {"comparisons": 1},
        }
        card = data_cards.markdown(snapshot.manifest, snapshot.sha256)
        assert "- Imported from arena 2024: rankings (1), prompts (1).\n" in card
        before = data_cards.markdown(snapshot.manifest | {"datasets": {"arena 2024": 2}}, snapshot.sha256)
        assert "- Imported from arena 2024: rankings (2).\n" in before


def test_an_imported_labeler_can_never_sign_in_and_is_on_no_page(project: Project) -> None:
    bring(project, lines(PAIR))
    with transaction() as session:
        (user,) = session.scalars(select(User).where(User.is_imported))
        assert user.email.endswith("@imported.invalid")
        assert user.disabled_at is not None
        assert [item.email for item in accounts.list_users(session)] == ["admin@example.org"]
    with pytest.raises(IntegrityError, match="is_imported"), transaction() as session:
        session.execute(text("UPDATE users SET disabled_at = NULL WHERE is_imported"))


def test_the_same_file_twice_adds_nothing(project: Project) -> None:
    content = lines(PAIR, PAIR, PAIR | {"rejected": "Never."})
    first = bring(project, content)
    assert (first.added, first.duplicates_in_file, first.prompts) == (2, 1, 1)
    before = export(project)
    second = bring(project, content)
    assert (second.added, second.duplicates_in_file, second.duplicates_in_project) == (0, 1, 2)
    assert export(project) == before
    assert bring(project, content, dataset="another place").added == 2
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Completion)) == 3


def test_one_bad_line_and_nothing_is_stored(project: Project) -> None:
    with pytest.raises(InvalidInputError) as caught:
        bring(project, lines(PAIR, {"chosen": "So."}) + b'{"a": NaN}\n' + lines(PAIR | {"prompt": "Who?"}))
    assert "2 problems" in caught.value.message
    assert [line.split()[1] for line in caught.value.details] == ["2", "3"]
    with transaction() as session:
        for table in (Prompt, Completion, Task, Ranking, Import):
            assert session.scalar(select(func.count()).select_from(table)) == 0
    assert bring(project, lines(PAIR)).added == 1


def test_a_bad_last_line_is_found_before_anything_waits_to_be_stored(project: Project) -> None:
    parts: list[float] = []
    with pytest.raises(InvalidInputError, match="One problem was found"):
        bring(
            project, lines(*(PAIR | {"prompt": f"{number}?"} for number in range(1_000))) + b"{}\n", told=parts.append
        )
    assert len(parts) > 2
    assert max(parts) <= 0.1
    bring(project, lines(PAIR), told=parts.append)
    assert max(parts) > 0.9


HOSTILE = {
    "NUL": (b'{"prompt": "a\\u0000", "chosen": "b", "rejected": "c"}', "NUL"),
    "surrogate": (b'{"prompt": "a\\ud800", "chosen": "b", "rejected": "c"}', "surrogate"),
    "key twice": (b'{"prompt": "a", "prompt": "b"}', "twice"),
    "not UTF-8": (b'{"prompt": "\xff"}', "UTF-8"),
    "deep": (b"[" * 40 + b"]" * 40, "levels deep"),
    "long": (b'{"prompt": "' + b"a" * (2 << 20) + b'"}', "longer than 1 MiB"),
    "no object": (b"[1]", "not a JSON object"),
    "bomb": (gzip.compress(b" " * (64 << 20)), "times its compressed size"),
    "cut off": (gzip.compress(lines(PAIR) * 99)[:-20], "not whole"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_reason(project: Project, name: str) -> None:
    content, reason = HOSTILE[name]
    with pytest.raises(InvalidInputError) as caught:
        bring(project, content)
    assert reason in caught.value.details[0]
    assert bring(project, gzip.compress(lines(PAIR))).added == 1


def test_a_million_bad_lines_end_after_a_thousand() -> None:
    seen = import_files.Reading()
    file = io.BytesIO(b"{}\n" * 1_000_000)
    assert list(import_files.records(file, FORMATS["trl"], seen)) == []
    assert (seen.problem_count, len(seen.problems)) == (1_000, 50)
    assert file.tell() < 10_000


@pytest.mark.skipif(not HH.exists(), reason="the public data are not here")
def test_hh_pairs_go_in_and_come_out_as_they_were(project: Project) -> None:
    report = bring(project, HH.read_bytes(), "hh", dataset="hh-rlhf")
    assert (report.added + report.duplicates_in_file, report.left_out) == (2307, 5)
    assert [line.split(":")[0] for line in report.left_out_lines] == [
        "Line 1255", "Line 1689", "Line 1951", "Line 1953", "Line 2037"
    ]  # fmt: skip
    given = {json.dumps(json.loads(line)) for line in gzip.decompress(HH.read_bytes()).splitlines()}
    back = [json.dumps(json.loads(line)) for line in export(project, "hh").splitlines()]
    assert len(back) == report.added
    assert len(set(back) - given) <= 4  # an empty turn is written without the space that stood in it


@pytest.mark.skipif(not TREES.exists(), reason="the public data are not here")
def test_open_assistant_trees_go_in_and_come_out_as_their_pairs(project: Project) -> None:
    report = bring(project, TREES.read_bytes(), "oasst", dataset="oasst1")
    assert report.added == 212
    assert len(export(project, "trl").splitlines()) == 754


def test_what_plackett_exports_it_imports(project: Project) -> None:
    bring(project, lines(PAIR, PAIR | {"prompt": "Who?", "tie": True}), dataset="first")
    with transaction() as session:
        other = make_project(session, accounts.admin_named(session, "admin@example.org"), "Other")
    for name in ("plackett", "csv"):
        assert bring(other, export(project, name), name, dataset=name).added == 2
    strip = {"id", "project_id", "task_id", "prompt", "completions", "ranking", "shown_order", "dataset", "created_at"}
    first = [line.model_dump(exclude=strip | {"labeler"}) for line in exported(project)]
    assert [line.model_dump(exclude=strip | {"labeler"}) for line in exported(other)] == first + first
