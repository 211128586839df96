"""Pages of schedules and rounds over HTTP, as an admin and a reviewer use them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pipeline_world import FULL, SHORT, Loop, make_loop, pipeline
from sqlalchemy import select, update

from app.db import transaction
from app.models import Occurrence, Pipeline, Run, Schedule
from app.services.training import recipes, run_states, schedules, weekly
from app.services.training.run_states import Beat
from app.services.training.schedules import Values
from app.services.training.weekly import Choices
from app.worker import rounds

FIELDS = {
    "name": "Weekly DPO", "cron": "0 2 * * 1", "timezone": "Europe/Berlin", "min_new_rankings": "50",
    "catch_up": "latest", "overlap": "skip", "methods": "dpo", "start": "newest_sft", "min_reward_accuracy": "",
    "min_win_rate": "0.5", "max_kl": "20", "promote": "as_project", "prompts": "all", "priority": "10", "recipe": "",
    "action": "save",
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A signed-in admin and reviewer, and a project whose rounds are ended by hand."""

    loop: Loop
    admin: Any
    reviewer: Any

    @property
    def base(self) -> str:
        return f"/projects/{self.loop.project.id}/schedules"

    def create(self, **fields: str) -> Any:
        return self.admin.post_form(f"{self.base}/new", FIELDS | fields)

    def made(self, **values: Any) -> UUID:
        with transaction() as session:
            defaults = {"name": "Weekly", "cron": "0 2 * * 1", "timezone": "Europe/Berlin", "recipe": SHORT}
            return schedules.create(session, self.loop.project, self.loop.admin, Values(**(defaults | values))).id


@pytest.fixture
def scene(redis_url: str, make_user: Any, sign_in: Any, tmp_path: Path) -> Scene:
    loop = make_loop(tmp_path / "models")
    return Scene(loop, sign_in(loop.admin), sign_in(make_user("reviewer")))


def stored(schedule_id: UUID) -> Schedule:
    with transaction() as session:
        return session.get_one(Schedule, schedule_id)


def only_schedule() -> Schedule:
    with transaction() as session:
        return session.scalars(select(Schedule)).one()


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_form_starts_from_a_weekly_dpo_and_shows_five_due_times(scene: Scene) -> None:
    page = scene.admin.get(f"{scene.base}/new")
    assert page.status_code == 200
    assert "At 02:00 on Monday." in words(page.text)
    assert len(re.findall(r"<time datetime=", page.text)) == 5
    assert re.search(r"Mon \d+ \w+ \d{4}, 02:00 CES?T", words(page.text))


def test_choices_make_a_recipe_and_come_back_into_the_form(scene: Scene) -> None:
    answer = scene.create(methods="both", sft="yes", promote="automatically", max_kl="", prompts="unsampled")
    found = only_schedule()
    assert answer.headers["location"] == f"/schedules/{found.id}?done=schedule-saved"
    stages = {stage["name"]: stage for stage in found.recipe["stages"]}
    assert list(stages) == [
        "snapshot",
        "sft",
        "reward",
        "dpo",
        "ppo",
        "evaluation",
        "gate",
        "answers",
        "queue",
        "tasks",
    ]
    assert stages["ppo"]["model"] == "stage:sft"
    assert stages["gate"]["candidates"] == ["stage:dpo", "stage:ppo"]
    assert (stages["gate"]["promote"], stages["gate"].get("max_kl")) == ("automatically", None)
    assert stages["dpo"]["options"] == {"optim": {"learning_rate": 0.00005}}
    form = scene.admin.get(f"/schedules/{found.id}/edit").text
    assert '<option value="both" selected>' in form
    assert re.search(r'name="sft" type="checkbox" value="yes" checked', form)
    assert re.search(r'<textarea id="recipe"[^>]*>\s*</textarea>', form)


def test_labelers_judge_every_candidate_blind_before_the_gate_where_the_form_says_so(scene: Scene) -> None:
    chosen = {"blind": "yes", "blind_overlap": "2", "min_blind_win_rate": "0.5"}
    assert scene.create(methods="both", **chosen).status_code == 303
    found = only_schedule()
    stages = {stage["name"]: stage for stage in found.recipe["stages"]}
    order = list(stages)
    assert order[order.index("evaluation") + 1 : order.index("answers")] == ["blind-dpo", "blind-ppo", "gate"]
    assert stages["blind-ppo"] == {
        "name": "blind-ppo", "kind": "blind", "evaluation": "evaluation", "candidate": "stage:ppo", "overlap": 2,
    }  # fmt: skip
    assert (stages["gate"]["blind"], stages["gate"]["min_blind_win_rate"]) == ("blind-dpo", 0.5)
    form = scene.admin.get(f"/schedules/{found.id}/edit").text
    assert re.search(r'name="blind" type="checkbox" value="yes" checked', form)
    assert re.search(r'name="blind_overlap"[^>]*value="2"', form)
    assert re.search(r'name="min_blind_win_rate"[^>]*value="0.5"', form)
    edit = FIELDS | {"version": "1", "min_blind_win_rate": ""}
    assert scene.admin.post_form(f"/schedules/{found.id}/edit", edit).status_code == 303
    assert "blind" not in [stage["kind"] for stage in only_schedule().recipe["stages"]]


@pytest.mark.parametrize("methods", ["dpo", "ppo", "both"])
@pytest.mark.parametrize("prompts", ["all", "none"])
def test_every_usual_recipe_can_be_read(methods: Any, prompts: Any) -> None:
    for sft in (False, True):
        for blind in (False, True):
            chosen = Choices(methods=methods, prompts=prompts, sft=sft, blind=blind, min_reward_accuracy=0.6)
            recipes.read(weekly.recipe(chosen))


def test_a_recipe_of_ones_own_takes_the_place_of_the_choices(scene: Scene) -> None:
    scene.create(recipe=json.dumps(SHORT))
    found = only_schedule()
    assert [stage["kind"] for stage in found.recipe["stages"]] == ["snapshot", "sft"]
    assert found.choices is None
    assert "&#34;kind&#34;: &#34;sft&#34;" in scene.admin.get(f"/schedules/{found.id}/edit").text


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cron": "0 2"}, "has five fields"),
        ({"cron": "0 2 30 2 *"}, "day of month will not do"),
        ({"timezone": "Berlin"}, "“Berlin” is no time zone"),
        ({"min_win_rate": "2"}, "or less."),
        ({"min_blind_win_rate": "0.5"}, "let labelers judge the candidate blind"),
        ({"blind_overlap": "0"}, "Enter 1 or more."),
        ({"min_new_rankings": "many"}, "Enter a whole number."),
        ({"recipe": "{"}, "The recipe is not JSON"),
        ({"recipe": "[]"}, "A recipe is a JSON object with one key"),
        ({"recipe": '{"stages": [{"name": "a", "kind": "b"}]}'}, "Stage 1: its kind is one of snapshot"),
    ],
)
def test_a_refused_form_comes_back_filled_in_with_the_sentence_beside_the_field(
    scene: Scene, fields: dict[str, str], sentence: str
) -> None:
    answer = scene.create(**fields)
    assert answer.status_code == 422
    (name,) = fields
    error = re.search(rf'id="{name}-error">([^<]+)<', answer.text)
    assert error, "no sentence beside the field"
    assert sentence in error[1]
    assert 'value="Weekly DPO"' in answer.text
    with transaction() as session:
        assert session.scalars(select(Schedule)).all() == []
    assert scene.create().status_code == 303
    assert scene.create().status_code == 409


def test_the_preview_button_shows_due_times_and_saves_nothing(scene: Scene) -> None:
    answer = scene.create(action="preview", cron="30 7 * * 5", timezone="Asia/Kolkata", min_win_rate="nonsense")
    assert answer.status_code == 200
    assert "At 07:30 on Friday." in words(answer.text)
    assert re.search(r"Fri \d+ \w+ \d{4}, 07:30 IST", words(answer.text))
    assert 'value="nonsense"' in answer.text
    fragment = scene.admin.get("/schedules/next", params={"cron": "30 7 * * 5", "timezone": "Asia/Kolkata"})
    assert "At 07:30 on Friday." in fragment.text
    assert "<html" not in fragment.text
    wrong = scene.admin.get("/schedules/next", params={"cron": "<b>", "timezone": "Asia/Kolkata"})
    assert "has five fields" in wrong.text
    with transaction() as session:
        assert session.scalars(select(Schedule)).all() == []


def test_an_edit_from_an_old_page_is_told_and_loses_nothing(scene: Scene) -> None:
    schedule_id = scene.made()
    edit = f"/schedules/{schedule_id}/edit"
    assert 'name="version" value="1"' in scene.admin.get(edit).text
    assert scene.admin.post_form(edit, FIELDS | {"version": "1", "cron": "0 3 * * 1"}).status_code == 303
    late = scene.admin.post_form(edit, FIELDS | {"version": "1", "cron": "0 4 * * 1"})
    assert late.status_code == 409
    assert "Somebody has changed this schedule" in late.text
    assert 'value="0 4 * * 1"' in late.text
    assert stored(schedule_id).cron == "0 3 * * 1"


def test_run_now_leads_to_its_round_and_a_second_click_to_the_same(scene: Scene) -> None:
    schedule_id = scene.made(min_new_rankings=1000)
    page = scene.admin.get(f"/schedules/{schedule_id}")
    assert "10 of 1000 needed" in words(page.text)
    form_id = re.search(r'name="form_id" value="([^"]+)"', page.text)
    assert form_id
    first, second = (scene.admin.post_form(f"/schedules/{schedule_id}/run", {"form_id": form_id[1]}) for _ in "ab")
    assert first.headers["location"] == second.headers["location"]
    again = scene.admin.post_form(f"/schedules/{schedule_id}/run", {"form_id": str(uuid4())})
    assert again.status_code == 409
    assert "has not ended yet" in again.text
    shown = scene.admin.get(first.headers["location"])
    assert "Round 1" in shown.text
    assert 'hx-trigger="every 4s"' in shown.text
    told = words(scene.admin.get(f"/schedules/{schedule_id}").text)
    assert f"Round 1 asked for by {scene.loop.admin.name}" in told


def test_pause_and_go_on(scene: Scene) -> None:
    schedule_id = scene.made()
    scene.admin.post_form(f"/schedules/{schedule_id}/pause")
    assert stored(schedule_id).paused
    assert "none while paused" in scene.admin.get(scene.base).text
    scene.admin.post_form(f"/schedules/{schedule_id}/resume")
    assert not stored(schedule_id).paused


def test_the_calendar_shows_what_ran_what_was_skipped_and_what_will(scene: Scene) -> None:
    schedule_id = scene.made(cron="30 1 * * *", timezone="UTC")
    with transaction() as session:
        session.execute(update(Schedule).values(next_due_at=datetime(2026, 3, 10, 1, 30, tzinfo=UTC)))
        for day, state, reason in ((3, "skipped", "The schedule was paused."), (4, "skipped", "<b>No.</b>")):
            session.add(
                Occurrence(
                    schedule_id=schedule_id,
                    due_at=datetime(2026, 3, day, 1, 30, tzinfo=UTC),
                    state=state,
                    reason=reason,
                )
            )
    page = scene.admin.get(scene.base, params={"month": "2026-03"}).text
    assert "March 2026" in page
    assert len(re.findall(r'class="entry entry-skipped"', page)) == 2
    # From the 10th to Sunday 5 April, the last day of the grid.
    assert len(re.findall(r'class="entry entry-planned"', page)) == 22 + 5
    assert 'title="The schedule was paused."' in page
    assert "<b>No.</b>" not in page
    assert "month=2026-02" in page
    assert "month=2026-04" in page
    for wrong in ("2026", "2026-13", "9999-12", "1066-10"):
        assert scene.admin.get(scene.base, params={"month": wrong}).status_code == 422


def test_a_round_shows_its_chain_with_links_and_the_time_left(scene: Scene) -> None:
    schedule_id = scene.made(recipe=FULL)
    with transaction() as session:
        schedules.run_now(session, schedule_id, scene.loop.admin, "a")
        round_id = session.scalars(select(Pipeline.id)).one()
    rounds.look()
    with transaction() as session:
        run_id = session.scalars(select(Run.id)).one()
        lease = run_states.claim(session, run_id, "w", 600)
        assert lease is not None
        metrics = {step: {"time": step * 30.0, "loss": 1.0} for step in range(1, 41)}
        run_states.heartbeat(session, lease, 600, Beat(step=40, total=100, metrics=metrics))
    page = scene.reviewer.get(f"/rounds/{round_id}/live")
    text = words(page.text)
    assert "1 of 8 stages done" in text
    assert "Step 40 of 100, about 30 min left" in text
    assert f'href="/runs/{run_id}"' in page.text
    assert "Snapshot 1" in text
    assert text.count("waiting") == 6
    assert "/cancel" not in page.text

    answer = scene.admin.post_form(f"/rounds/{round_id}/cancel")
    assert answer.headers["location"] == f"/rounds/{round_id}?done=round-cancelled"
    ended = scene.admin.get(f"/rounds/{round_id}/live").text
    assert "hx-trigger" not in ended
    assert "Cancelled on request." in ended
    assert scene.admin.post_form(f"/rounds/{round_id}/cancel").status_code == 303
    assert scene.admin.post_form(f"/rounds/{round_id}/retry").status_code == 303
    assert pipeline(round_id).state == "running"
    refused = scene.admin.post_form(f"/rounds/{round_id}/retry")
    assert refused.status_code == 409
    assert "is running, so there is nothing to retry" in refused.text
    listed = words(scene.reviewer.get(f"/projects/{scene.loop.project.id}/rounds").text)
    assert "Round 1" in listed
    assert "Too early to say: it takes two rounds to see whether they still teach." in listed
    assert "10 10 new" in listed


def test_reviewers_look_and_only_admins_change(scene: Scene) -> None:
    schedule_id = scene.made()
    with transaction() as session:
        schedules.run_now(session, schedule_id, scene.loop.admin, "a")
        round_id = session.scalars(select(Pipeline.id)).one()
    for path in (scene.base, f"/schedules/{schedule_id}", f"/rounds/{round_id}"):
        assert scene.reviewer.get(path).status_code == 200, path
        assert 'method="post" action="/schedules' not in scene.reviewer.get(path).text
    for path in (f"{scene.base}/new", f"/schedules/{schedule_id}/edit", "/schedules/next"):
        assert scene.reviewer.get(path).status_code == 403, path
        assert scene.admin.get(path).status_code == 200, path
    for path in (
        f"{scene.base}/new",
        f"/schedules/{schedule_id}/edit",
        *(f"/schedules/{schedule_id}/{verb}" for verb in ("run", "pause", "resume")),
        *(f"/rounds/{round_id}/{verb}" for verb in ("cancel", "retry")),
    ):
        assert scene.reviewer.post_form(path, FIELDS).status_code == 403, path
    assert pipeline(round_id).state == "running"


def test_nothing_is_found_for_unknown_ids(scene: Scene) -> None:
    for path in (
        f"/schedules/{uuid4()}",
        f"/schedules/{uuid4()}/edit",
        f"/rounds/{uuid4()}",
        f"/projects/{uuid4()}/rounds",
    ):
        assert scene.admin.get(path).status_code == 404, path
    for path in (f"/schedules/{uuid4()}/pause", f"/rounds/{uuid4()}/cancel", f"/rounds/{uuid4()}/retry"):
        assert scene.admin.post_form(path).status_code == 404, path
