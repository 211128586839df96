"""The demo's folder, its progress, and (slow) a whole turn of the loop with a tiny random model."""

from __future__ import annotations

import copy
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from sqlalchemy import func, select

from app import db
from app.demo import loop, plan, weekly_plan
from app.demo.model import NAME, find_gguf
from app.demo.plan import Training
from app.demo.progress import Story, spoken
from app.demo.run import MARKER, demo, demo_weekly, prepare
from app.embedded.folder import exclusive, make_var
from app.embedded.stack import Stack
from app.errors import SetupError
from app.models import ModelVersion, Pipeline, Run, Task, TaskScore
from app.settings import get_settings


def test_a_new_folder_is_marked_as_a_demos(tmp_path: Path) -> None:
    prepare(tmp_path / "demo", fresh=False)
    assert (tmp_path / "demo" / MARKER).is_file()


def test_an_earlier_demo_is_kept_unless_a_fresh_one_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    prepare(folder, fresh=False)
    (folder / "runs").mkdir()
    prepare(folder, fresh=False)
    assert (folder / "runs").exists()
    prepare(folder, fresh=True)
    assert [path.name for path in folder.iterdir()] == [MARKER]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("precious")
    with pytest.raises(SetupError, match="holds something that is no demo"):
        prepare(tmp_path / "demo", fresh=fresh)
    assert (tmp_path / "demo" / "thesis.tex").read_text() == "precious"


def test_a_running_demo_is_not_deleted_under_its_feet(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    prepare(folder, fresh=False)
    make_var(folder)
    with exclusive(folder), pytest.raises(SetupError, match="A demo is running in"):
        prepare(folder, fresh=True)
    prepare(folder, fresh=True)


def test_without_a_terminal_each_step_is_one_line() -> None:
    out = io.StringIO()
    with Story(Console(file=out, width=200)) as story:
        with story.step("sample", "Sample answers") as step:
            step.update(0, None)
            step.update(3, 12)
            step.result = "288 answers."
        with pytest.raises(RuntimeError), story.step("sft", "Fine-tune"):
            raise RuntimeError
    assert out.getvalue() == "✓ Sample answers (0 s)  288 answers.\n", "a step that failed has no line"
    assert list(story.seconds) == ["sample"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "about 1 s left"), (89.0, "about 89 s left"), (150.0, "about 2 min left")]
)
def test_time_left_is_said_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


@pytest.fixture
def small_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo of nine prompts, short answers and a tiny random model; its VAR."""
    torch = pytest.importorskip("torch")
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(find_gguf().parent, gguf_file=find_gguf().name)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = tmp_path / "var" / "models" / NAME
    LlamaForCausalLM(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    (model / "manifest.json").write_text("{}")

    data = tmp_path / "data"
    data.mkdir()
    prompts = (loop.DATA / "prompts.jsonl").read_text().splitlines(keepends=True)[:9]
    asked = [json.loads(line)["messages"] for line in prompts]
    written = (loop.DATA / "demonstrations.jsonl").read_text().splitlines(keepends=True)
    (data / "prompts.jsonl").write_text("".join(prompts))
    (data / "demonstrations.jsonl").write_text("".join(w for w in written if json.loads(w)["messages"] in asked))
    exam = (loop.DATA / "exam_prompts.jsonl").read_text().splitlines(keepends=True)[:6]
    (data / "exam_prompts.jsonl").write_text("".join(exam))
    for name in ("next_prompts.jsonl", "guidelines.md"):
        (data / name).write_text((loop.DATA / name).read_text())
    monkeypatch.setattr(loop, "DATA", data)
    monkeypatch.setattr(plan, "SAMPLING", {"temperature": "1", "max_new_tokens": "16"})
    monkeypatch.setattr(plan, "PPO", Training(plan.PPO.fields | {"iterations": "2", "max_new_tokens": "8"}))
    return tmp_path / "var"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_seed_gives_the_same_table_beside_the_first_demo(small_demo: Path) -> None:
    seen: list[tuple[int, int]] = []

    def stay(stack: Stack) -> None:
        page = httpx.get(stack.url + "/sign-in", timeout=10)
        with db.transaction() as session:
            waiting = session.scalar(select(func.count()).where(Task.state == "open", Task.done_count == 0))
        seen.append((page.status_code, waiting or 0))

    out = io.StringIO()
    settings = get_settings().model_copy(update={"var": small_demo, "port": 0})
    first, second = (demo(settings, Console(file=out, width=120), seed=5, stay=stay) for _ in range(2))
    assert (first.project, second.project) == ("Demo", "Demo 2")
    assert replace(second, project="Demo") == first
    assert [row.name for row in first.policies] == ["base", "sft-1", "dpo-1", "ppo-1"]
    assert seen == [(200, 16), (200, 32)], "the pages are served, and each demo leaves its next tasks open"
    told = out.getvalue()
    assert "/invite/" in told
    assert "Every ranking below is simulated" in told
    assert (small_demo / "demo" / "report.md").read_text().startswith("# Demo 2: one turn of the loop, seed 5")
    assert "DATABASE_URL" not in os.environ


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_schedule_runs_two_rounds_unattended_and_the_report_shows_both(
    small_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = copy.deepcopy(weekly_plan.RECIPE)
    for stage in recipe["stages"]:
        if "optim" in stage.get("options", {}):
            stage["options"]["optim"]["max_steps"] = 2
        if stage["kind"] == "gate":
            # A random model learns nothing; that every policy passes lets the second round start from the first's.
            stage |= {"min_blind_win_rate": 0.0, "min_reward_accuracy": 0.0, "max_kl": 1000}
    monkeypatch.setattr(weekly_plan, "RECIPE", recipe)
    seen: list[tuple[str, list[str], dict[str, set[str]], int]] = []

    def stay(_stack: Stack) -> None:
        with db.transaction() as session:
            states = session.scalars(select(Pipeline.state).order_by(Pipeline.number)).all()
            scored = session.scalar(
                select(func.count()).select_from(TaskScore).where(TaskScore.picked == "uncertainty")
            )
            runs = session.scalars(select(Run).where(Run.method == "sample").order_by(Run.id)).all()
            writers = {str(number): set(run.inputs.get("policies", {})) for number, run in enumerate(runs)}
            promoted = session.scalars(select(ModelVersion.name).where(ModelVersion.state == "promoted")).one()
            seen.append((promoted, list(states), writers, scored or 0))

    out = io.StringIO()
    settings = get_settings().model_copy(update={"var": small_demo, "port": 0})
    result = demo_weekly(settings, Console(file=out, width=160), rounds=2, prompts=9, seed=5, stay=stay)
    [(promoted, states, writers, scored)] = seen
    assert states == ["succeeded", "succeeded"]
    assert promoted == "dpo-2"
    assert [(row.candidate, row.incumbent) for row in result.rounds] == [("dpo-1", "base"), ("dpo-2", "dpo-1")]
    assert writers == {
        "0": {"base", "base at 1.1"},
        "1": {"dpo-1", "dpo-1 at 1.1", "base"},
        "2": {"dpo-2", "dpo-2 at 1.1", "dpo-1"},
    }, "each round asks about answers of the policy in use, hotter ones, and those of the policy before it"
    assert scored > 0, "the reward model's heads have put tasks in order"
    report = (small_demo / "demo" / "report.md").read_text()
    assert "## Round 1: dpo-1 against base" in report
    assert "## Round 2: dpo-2 against dpo-1" in report
    assert "dpo-1 at temperature 1.1 (" in report
    assert "| Lower bound of the win rate by labelers | at least 0 % |" in report
