"""The pages of quality over HTTP: who may open them, what they show, and every form with its refusal beside it."""

from __future__ import annotations

import re
from uuid import UUID, uuid4

import pytest
from browsers import Browser, MakeUser, SignIn
from hostile_text import PAYLOADS, became_markup
from labeling_world import World, make_world, rank, take
from sqlalchemy import func, select, update

from app import db
from app.models import (
    Assignment,
    Completion,
    Membership,
    Project,
    QualityReport,
    Quarantine,
    Ranking,
    Task,
    TaskCompletion,
)
from app.services.labeling import edits
from app.services.quality import references
from app.worker import tasks as worker


@pytest.fixture
def world(database: str) -> World:
    """Four tasks that two labelers have ranked in opposite orders, and two that nobody has begun."""
    made = make_world(number_of_prompts=6, overlap=2)
    for _ in range(4):
        for number, labeler in enumerate(made.labelers):
            taken = take(made, labeler)
            assert taken is not None
            places = sorted(taken.shown_order, reverse=bool(number))
            rank(taken, labeler, **{"ABC"[n]: places.index(item) + 1 for n, item in enumerate(taken.shown_order)})
    return made


@pytest.fixture
def reviewer(world: World, make_user: MakeUser, sign_in: SignIn) -> Browser:
    return sign_in(make_user("reviewer"))


def base(world: World) -> str:
    return f"/projects/{world.project_id}/quality"


def compute(browser: Browser, world: World) -> None:
    assert browser.post_form(f"{base(world)}/compute").status_code == 303
    worker.quality_reports()


def task_ids(world: World, *, begun: bool) -> list[UUID]:
    with db.transaction() as session:
        is_begun = Task.done_count > 0
        query = select(Task.id).where(Task.project_id == world.project_id, is_begun if begun else ~is_begun)
        return list(session.scalars(query.order_by(Task.sort_key)))


def count(table: type) -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def the_board(page: str) -> dict[str, str]:
    """Return the hidden number of a page's board and ranks for its three answers as shown."""
    found = re.search(r'name="submit_id" value="([^"]+)"', page)
    assert found
    return {"submit_id": found.group(1), "rank_A": "1", "rank_B": "2", "rank_C": "3"}


@pytest.mark.parametrize(("role", "status"), [("labeler", 403), ("reviewer", 200), ("admin", 200)])
def test_only_reviewers_and_admins_see_quality(
    world: World, make_user: MakeUser, sign_in: SignIn, role: str, status: int
) -> None:
    browser = sign_in(make_user(role))
    task = task_ids(world, begun=True)[0]
    for path in ("", "/set-aside", "/disagreements", f"/disagreements/{task}", "/known", f"/known/new/{task}"):
        assert browser.get(base(world) + path).status_code == status, path


def test_a_labeler_can_change_nothing_here(world: World, sign_in: SignIn) -> None:
    browser, task = sign_in(world.labelers[0]), task_ids(world, begun=True)[0]
    before = count(Ranking)
    for path in (
        "/compute",
        "/set-aside",
        "/set-aside/preview",
        f"/disagreements/{task}/ranking",
        f"/disagreements/{task}/dismiss",
        f"/known/{task}",
        f"/known/new/{task}/ranking",
        f"/known/new/{task}/verdict",
        f"/trials/{world.labelers[0].id}",
    ):
        form = {
            "reason": "Mine",
            "state": "active",
            "rank_A": "1",
            "rank_B": "2",
            "rank_C": "3",
            "submit_id": str(task),
        }
        assert browser.post_form(base(world) + path, form).status_code == 403, path
    assert (count(Quarantine), count(QualityReport), count(Membership), count(Ranking)) == (0, 0, 0, before)


def test_figures_are_asked_for_computed_and_shown(world: World, reviewer: Browser) -> None:
    assert "No figures yet" in reviewer.get(base(world)).text
    assert reviewer.post_form(f"{base(world)}/compute").headers["location"].endswith("?done=figures-requested")
    assert "New figures are being computed." in reviewer.get(base(world)).text
    worker.quality_reports()
    page = reviewer.get(base(world)).text
    assert "From 8 rankings of 4 tasks, 4 of them ranked by more than one labeler" in page
    assert re.search(r'class="agreement-value">0 %<', page)
    for labeler in world.labelers:
        assert labeler.name in page


def test_setting_aside_is_previewed_confirmed_listed_and_lifted(world: World, reviewer: Browser) -> None:
    labeler = world.labelers[0]
    assert "would hold 8 rankings" in reviewer.get(f"{base(world)}/set-aside").text
    form = {"user_id": str(labeler.id), "starts_at": "", "ends_at": "", "reason": "Clicks at random"}
    preview = reviewer.post_form(f"{base(world)}/set-aside/preview", form)
    assert "This takes 4 of 8 rankings out: 4 remain." in preview.text
    assert count(Quarantine) == 0
    answer = reviewer.post_form(f"{base(world)}/set-aside", form)
    assert (answer.status_code, count(Quarantine)) == (303, 1)
    page = reviewer.get(answer.headers["location"]).text
    assert "would hold 4 rankings" in page
    assert "Clicks at random" in page
    lift = re.search(r'action="([^"]+/lift)"', page)
    assert lift
    assert reviewer.post_form(lift.group(1)).status_code == 303
    assert "would hold 8 rankings" in reviewer.get(f"{base(world)}/set-aside").text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reason": ""}, "Please fill this in."),
        ({"reason": "Typed text\x00"}, "plain characters"),
        ({"user_id": ""}, "Choose a labeler or a time range"),
        ({"starts_at": "2026-03-02T10:00", "ends_at": "2026-03-01T10:00"}, "ends before it begins"),
        ({"starts_at": "yesterday"}, "Please look at the marked fields."),
    ],
)
def test_a_quarantine_that_makes_no_sense_is_refused_and_keeps_what_was_typed(
    world: World, reviewer: Browser, changes: dict[str, str], sentence: str
) -> None:
    form = {"user_id": str(world.labelers[0].id), "reason": "Typed text"} | changes
    for path in ("/set-aside/preview", "/set-aside"):
        answer = reviewer.post_form(base(world) + path, form)
        assert answer.status_code == 422
        assert sentence in answer.text
        assert form["reason"].strip("\x00") in answer.text
    assert count(Quarantine) == 0


def test_a_disagreement_is_settled_on_the_board_and_leads_to_the_next(world: World, reviewer: Browser) -> None:
    compute(reviewer, world)
    queue = reviewer.get(f"{base(world)}/disagreements").text
    links = re.findall(r'href="(/projects/[^"]+/quality/disagreements/[0-9a-f-]{36})"', queue)
    assert len(links) == 4
    page = reviewer.get(links[0]).text
    assert "Labeler 2" in page
    for labeler in world.labelers:
        assert labeler.name not in page
    board = the_board(page)
    refused = reviewer.post_form(f"{links[0]}/ranking", board | {"rank_C": ""})
    assert (refused.status_code, count(Ranking)) == (422, 8)
    assert "Give every answer a rank" in refused.text
    answer = reviewer.post_form(f"{links[0]}/ranking", board)
    assert answer.headers["location"] == f"{links[1]}?done=adjudicated"
    again = reviewer.post_form(f"{links[0]}/ranking", board)
    assert (again.status_code, count(Ranking)) == (303, 9)
    other = reviewer.post_form(f"{links[0]}/ranking", board | {"rank_A": "3", "rank_C": "1"})
    assert (other.status_code, count(Ranking)) == (409, 9)
    assert "Somebody has settled this task" in other.text
    dismissed = reviewer.post_form(f"{links[1]}/dismiss")
    assert dismissed.headers["location"] == f"{links[2]}?done=disagreement-dismissed"
    assert (
        len(
            set(
                re.findall(r'quality/disagreements/([0-9a-f-]{36})"', reviewer.get(f"{base(world)}/disagreements").text)
            )
        )
        == 2
    )


def test_htmx_is_led_on_after_a_verdict(world: World, reviewer: Browser) -> None:
    task = task_ids(world, begun=True)[0]
    path = f"{base(world)}/disagreements/{task}"
    page = reviewer.get(path, headers={"HX-Request": "true"}).text
    assert "<html" not in page
    answer = reviewer.post_form(f"{path}/ranking", the_board(page), headers={"HX-Request": "true"})
    assert answer.headers["hx-redirect"] == f"{base(world)}/disagreements?done=adjudicated"


def test_a_reviewer_makes_gold_tasks_by_ranking_and_from_a_verdict(world: World, reviewer: Browser) -> None:
    fresh, settled = task_ids(world, begun=False)[0], task_ids(world, begun=True)[0]
    path = f"{base(world)}/known/new/{fresh}"
    page = reviewer.get(path).text
    assert "Labeler 1" not in page
    refused = reviewer.post_form(f"{path}/ranking", the_board(page) | {"rank_B": "1", "rank_C": "1"})
    assert refused.status_code == 422
    assert "measures nothing" in refused.text
    assert reviewer.post_form(f"{path}/ranking", the_board(page)).status_code == 303
    early = reviewer.post_form(f"{base(world)}/known/new/{settled}/verdict")
    assert early.status_code == 409
    verdict = f"{base(world)}/disagreements/{settled}"
    reviewer.post_form(f"{verdict}/ranking", the_board(reviewer.get(verdict).text))
    assert "Use it as a known answer" in reviewer.get(verdict).text
    assert reviewer.post_form(f"{base(world)}/known/new/{settled}/verdict").status_code == 303
    with db.transaction() as session:
        lines = references.listed(session, world.project_id)
        assert [line.purpose for line in lines] == ["gold", "gold"]
    page = reviewer.get(f"{base(world)}/known").text
    form = {"purpose": "screening", "state": "open"}
    assert reviewer.post_form(f"{base(world)}/known/{fresh}", form).status_code == 303
    assert reviewer.post_form(f"{base(world)}/known/{fresh}", {"purpose": "else", "state": "open"}).status_code == 422
    assert reviewer.post_form(f"{base(world)}/known/{task_ids(world, begun=False)[-1]}", form).status_code == 404


def test_settings_that_no_open_task_serves_are_pointed_out(world: World, reviewer: Browser) -> None:
    _set(world, gold_percent=10, screening_tasks=3)
    page = reviewer.get(f"{base(world)}/known").text
    assert "A trial needs 3 trial tasks, and 0 are open." in page
    assert "No gold task is open" in page
    _known(world, "gold", *task_ids(world, begun=False)[:1])
    assert "No gold task is open" not in reviewer.get(f"{base(world)}/known").text


def _known(world: World, purpose: references.Purpose, *tasks: UUID) -> None:
    with db.transaction() as session:
        for task in tasks:
            query = select(TaskCompletion.completion_id).where(TaskCompletion.task_id == task)
            groups = [[str(item)] for item in sorted(session.scalars(query))]
            references.create(session, task, world.admin, groups, purpose)


def _set(world: World, **values: object) -> None:
    with db.transaction() as session:
        session.execute(update(Project).where(Project.id == world.project_id).values(**values))


def test_a_gold_task_looks_like_any_other(database: str, sign_in: SignIn) -> None:
    """Two projects of the same single prompt and answers: the pages differ in ids, tokens and times alone."""
    pages = []
    for is_gold in (False, True):
        world = make_world(number_of_prompts=1)
        [task] = task_ids(world, begun=False)
        if is_gold:
            _known(world, "gold", task)
            _set(world, gold_percent=50)
        # Every second claim looks for a gold task, so that a hundred without one would be a miracle.
        taken = next(found for found in (take(world, world.labelers[0]) for _ in range(100)) if found is not None)
        assert taken.task_id == task
        with db.transaction() as session:
            texts = {row.id: row.text for row in session.execute(select(Completion.id, Completion.text))}
            assignment = session.get_one(Assignment, taken.id)
            assignment.shown_order = sorted(taken.shown_order, key=texts.__getitem__)
            name = session.get_one(Project, world.project_id).name
        page = sign_in(world.labelers[0]).get(f"/work/assignments/{taken.id}").text
        for own in (name, world.labelers[0].name, world.labelers[0].email):
            page = page.replace(own, "OWN")
        page = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", page)
        page = re.sub(r'(X-CSRF-Token": |name="csrf_token" value=)"[^"]+"', "TOKEN", page)
        pages.append(re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+", "TIME", page))
    assert pages[0] == pages[1]


def test_what_a_labeler_sees_of_their_own_answers_does_not_tell_a_gold_task(world: World, sign_in: SignIn) -> None:
    gold = task_ids(world, begun=False)[0]
    _known(world, "gold", gold)
    _set(world, gold_percent=50)
    with db.transaction() as session:  # nothing else is left to hand out
        session.execute(update(Task).where(Task.id != gold).values(state="closed"))
    labeler = world.labelers[0]
    browser = sign_in(labeler)
    taken = next(found for found in (take(world, labeler) for _ in range(100)) if found is not None)
    path = f"/work/assignments/{taken.id}"
    board = the_board(browser.get(path).text) | {"edit_A": "Better."}
    assert browser.post_form(f"{path}/ranking", board).status_code == 303
    with db.transaction() as session:
        kept = session.scalars(select(Ranking).where(Ranking.origin == "edit")).one()
        assert kept.not_counted_reason == edits.MEASURES
    mine = browser.get(f"/work/{world.project_id}/mine").text
    assert mine.count("Open and change") == 5  # four ordinary ones, and this one
    assert "No:" not in mine


def test_a_trial_shows_its_progress_and_its_outcome(world: World, make_user: MakeUser, sign_in: SignIn) -> None:
    _known(world, "screening", *task_ids(world, begun=False))
    _set(world, screening_tasks=2, screening_threshold=0.9)
    good, poor = make_user("labeler"), make_user("labeler")
    for labeler, is_good in ((good, True), (poor, False)):
        browser = sign_in(labeler)
        assert "Trial tasks: 0 of 2" in browser.get("/work").text
        answer = browser.post_form(f"/work/{world.project_id}/next", {"kind": "ranking"})
        for done in range(2):
            path = answer.headers["location"].partition("?")[0]
            page = browser.get(path).text
            assert f"Trial tasks: {done} of 2" in page
            with db.transaction() as session:
                shown = session.get_one(Assignment, UUID(path.rpartition("/")[2])).shown_order
            places = sorted(shown, reverse=not is_good)
            ranks = {f"rank_{'ABC'[n]}": str(places.index(item) + 1) for n, item in enumerate(shown)}
            answer = browser.post_form(f"{path}/ranking", the_board(page) | ranks)
            assert answer.status_code == 303
        assert answer.headers["location"].endswith("trial-active" if is_good else "/work?done=trial-rejected")
        outcome = browser.get("/work").text
        assert ("They did not agree with the reference answers" in outcome) is not is_good
    reviewer = sign_in(world.admin)
    page = reviewer.get(f"{base(world)}/known").text
    assert "Agreement 100 %" in page
    assert "Agreement 0 %" in page
    assert reviewer.post_form(f"{base(world)}/trials/{poor.id}", {"state": "active"}).status_code == 303
    assert take(world, poor) is None  # nothing is left to do, but nothing refuses them


def test_hostile_words_of_labelers_stay_text_before_reviewers(world: World, reviewer: Browser) -> None:
    task, payload = task_ids(world, begun=True)[0], "\n".join(PAYLOADS).replace("\x00", "")
    with db.transaction() as session:
        told = session.scalars(select(Ranking).where(Ranking.task_id == task).limit(1)).one()
        same = ("project_id", "task_id", "assignment_id", "user_id", "guideline_version_id", "groups", "shown_order")
        columns = {name: getattr(told, name) for name in same}
        columns |= {"submit_id": uuid4(), "body_sha256": "", "is_simulated": False, "counted": True, "seconds": 1.0}
        session.add(Ranking(**columns, reason=payload, supersedes=told.id))
        quarantine = Quarantine(
            project_id=world.project_id, user_id=world.labelers[0].id, reason=payload, created_by=world.admin.id
        )
        session.add(quarantine)
    for path in (f"/disagreements/{task}", "/set-aside"):
        assert became_markup(reviewer.get(base(world) + path).text) == [], path


def test_what_does_not_exist_is_not_found(world: World, reviewer: Browser) -> None:
    missing = "00000000-0000-7000-8000-000000000000"
    for path in (f"/disagreements/{missing}", f"/known/new/{missing}"):
        assert reviewer.get(base(world) + path).status_code == 404
    assert reviewer.post_form(f"{base(world)}/set-aside/{missing}/lift").status_code == 404
    assert reviewer.get(f"/projects/{missing}/quality").status_code == 404
