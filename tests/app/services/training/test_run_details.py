"""What stands beside a run's curves: its cost, its log, its samples, and how much of a long run a page reads."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from run_builders import fake_model_folder, make_model, make_project, make_prompts, make_user
from sqlalchemy import insert, text

from app.db import transaction
from app.models import Run, RunMetric
from app.services.training import costs, rollouts, run_files, run_logs, run_states, run_views, runs


@pytest.fixture
def run(database: str, redis_url: str, tmp_path: Path) -> Run:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        make_prompts(session, project, ["Is it?"])
        model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
        return runs.create_sampling_run(session, project, model, admin)


def attempt(run_id: UUID, began: timedelta, ended: timedelta | None) -> None:
    """One attempt that began and ended so long ago."""
    with transaction() as session:
        lease = run_states.claim(session, run_id, "w1", 60)
        assert lease is not None
        if ended is not None:
            run_states.retry(session, lease, "It crashed.", 1, 0)
        session.execute(
            text(
                "UPDATE run_attempts SET started_at = clock_timestamp() - :began, "
                "ended_at = CASE WHEN ended_at IS NULL THEN NULL ELSE clock_timestamp() - :ended END "
                "WHERE fence = :fence"
            ),
            {"began": began, "ended": ended or timedelta(), "fence": lease.fence},
        )


def test_every_attempt_costs_its_time_also_the_one_at_work(run: Run) -> None:
    with transaction() as session:
        assert costs.hours_of(session, [run.id]) == {}
        assert costs.hours_of_project(session, run.project_id) == 0
    attempt(run.id, timedelta(hours=5), timedelta(hours=3))
    attempt(run.id, timedelta(hours=1), None)
    with transaction() as session:
        assert costs.hours_of(session, [run.id])[run.id] == pytest.approx(3.0, abs=0.01)
        assert costs.hours_of_project(session, run.project_id) == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize(
    ("hours", "words"), [(0, "0.00"), (0.004, "under 0.01"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_gpu_hours_keep_the_digits_that_matter(hours: float, words: str) -> None:
    assert costs.spoken(hours) == words


def test_of_a_long_run_a_page_reads_few_lines_but_the_latest_and_all_held_out_ones(run: Run) -> None:
    lines = [
        {"run_id": run.id, "step": step, "values": {"loss": 1.0} | ({"held_out_loss": 2.0} if step % 997 == 0 else {})}
        for step in range(1, 10_001)
    ]
    with transaction() as session:
        session.execute(insert(RunMetric), lines)
        found = [row.step for row in run_views.metrics_of(session, run.id)]
    assert found == sorted(found)
    assert len(found) < run_views.MOST_METRICS + run_views.LATEST_METRICS + 20
    assert found[-50:] == list(range(9951, 10_001))
    assert {step for step in range(1, 10_001) if step % 997 == 0} <= set(found)
    assert max(after - before for before, after in itertools.pairwise(found)) <= 10_000 // run_views.MOST_METRICS + 1


def test_a_log_shows_no_escape_sequences_and_turns_no_line_around() -> None:
    hostile = "\x1b[31mred\x1b[0m \x1b]0;title\x07step\x1bM 1\r\n\u202egnp.exe\u2066 <b>x</b>\x9b2J\ttab"
    assert run_logs.readable(hostile) == "red step 1\ngnp.exe <b>x</b>2J\ttab"
    assert run_logs.readable("x" * 99_999) == "x" * run_logs.LONGEST


def write_rollouts(run: Run, lines: list[str]) -> None:
    folder = run_files.folder(run)
    (folder / "data").mkdir(parents=True)
    prompts = [{"id": f"p{n}", "messages": [{"role": "user", "content": f"Question {n}?"}]} for n in range(50)]
    (folder / "data" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (folder / "rollouts.jsonl").write_text("".join(lines))


def line(iteration: int, prompt: int, answer: str = "Yes.") -> str:
    row = {"iteration": iteration, "prompt_id": f"p{prompt}", "text": answer, "tokens": 2, "finish_reason": "stop"}
    return json.dumps(row | {"reward": 0.5, "kl": float("nan")}) + "\n"


def test_samples_show_the_same_prompt_over_time_and_two_iterations_side_by_side(run: Run) -> None:
    assert rollouts.read(run) is None
    lines = [line(iteration, prompt) for iteration in (1, 5, 9, 12) for prompt in (7, iteration)]
    write_rollouts(run, ["{broken\n", '{"iteration": 1}\n', "[" * 9999 + "\n", *lines, '{"iteration": 13, "promp'])
    found = rollouts.read(run, left=6)
    assert found is not None
    assert (found.iterations, found.left, found.right) == ((1, 5, 9, 12), 5, 12)
    [same] = found.over_time
    assert (same.prompt, [sample.iteration for sample in same.samples]) == ("Question 7?", [1, 9, 12])
    assert [(left and left[0], right and right[0]) for left, right in found.pairs] == [
        ("Question 7?", "Question 7?"),
        ("Question 5?", "Question 12?"),
    ]


def test_of_a_large_file_the_beginning_and_the_end_are_read_and_long_texts_cut(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "HEAD_BYTES", 20_000)
    monkeypatch.setattr(rollouts, "TAIL_BYTES", 60_000)
    write_rollouts(run, [line(iteration, iteration % 50, "long " * 1000) for iteration in range(1, 101)])
    found = rollouts.read(run)
    assert found is not None
    assert found.iterations[0] == 1
    assert found.iterations[-1] == 100
    assert len(found.iterations) < 20
    pair = found.pairs[0][0]
    assert pair is not None
    assert (len(pair[1].text), pair[1].is_cut) == (rollouts.LONGEST_TEXT, True)
