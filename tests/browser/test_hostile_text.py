"""Text that tries to become markup, in every field that people and models fill: no page runs it, loads it or warns."""

from __future__ import annotations

from pathlib import Path

from hostile_text import MARKDOWN_PAYLOADS, PAYLOADS
from playwright.sync_api import expect

from app import db
from app.services.projects import guidelines, projects
from app.services.training import run_states, runs
from app.services.training.run_states import Beat

from . import world
from .chromium import Watch
from .conftest import MakeUser, OpenPage
from .pages import pages_of

NAME = '"><img src=x onerror=alert(1)>{{ 7 * 7 }}'
"""For fields that take a line: a way out of an attribute, an element, a template's expression."""


def test_no_page_runs_what_people_and_models_have_written(
    make_user: MakeUser, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    admin, labeler = make_user("admin", f"Ada {NAME}"), make_user("labeler", f"Noor {NAME}")
    texts = [text.replace("\0", "") for text in (*PAYLOADS, *MARKDOWN_PAYLOADS)]  # the database takes no NUL
    chunks = ["\n\n".join(texts[start::30]) for start in range(30)]
    questions = {chunk: chunks[6 + place * 4 : 10 + place * 4] for place, chunk in enumerate(chunks[:6])}
    studio = world.make_studio(admin, tmp_path, questions=questions, name=NAME, guidelines="\n\n".join(texts[::5]))
    with db.transaction() as session:
        project = projects.get(session, studio.project.id)
        guidelines.revise(session, project, admin, "\n\n".join(reversed(PAYLOADS)))
        failing = runs.create_sampling_run(session, project, studio.models["dpo-1"], admin)
        session.flush()
        lease = world.start(session, failing)
        log = "\n".join(PAYLOADS)
        run_states.heartbeat(session, lease, 60, Beat(step=1, total=2, log_tail=log, metrics={1: {NAME: 1.0}}))
        run_states.fail(session, lease, f"The trainer said {NAME}", 1)

    watch.expect("404")  # the page that says that there is nothing
    pages = {user: open_page(user) for user in (None, labeler, studio.labeler, admin)}
    dialogs: list[str] = []
    for page in pages.values():
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    pages[admin].goto("/tokens")
    pages[admin].get_by_label("Name", exact=True).fill(NAME)
    pages[admin].get_by_role("button", name="Make the token").click()
    expect(pages[admin].get_by_role("cell", name=NAME)).to_be_visible()

    talk = {chunk: (chunks[6], f"{chunk} {chunks[7]}") for chunk in chunks[:3]}
    places = {**pages_of(studio, labeler, talk, [NAME]), "failed run": (admin, f"/runs/{failing.id}")}
    for user, path in places.values():
        pages[user].goto(path)
        pages[user].evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
        assert pages[user].evaluate("document.images.length") == 1, "the only image of a page is our mark"
    expect(pages[admin].get_by_text(f"The trainer said {NAME}").first).to_be_visible()
    pages[labeler].goto(places["ranking"][1])
    expect(pages[labeler].get_by_text("<script>alert(1)</script>").first).to_be_attached()
    assert dialogs == []
