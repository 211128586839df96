"""Rankings imported from the page with JavaScript: the file is sent beside the page, and either answer is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from run_builders import make_project

from app.db import transaction
from app.models import User
from app.services.data import jobs
from app.worker import job_child

from .accessibility import defects_of
from .chromium import Watch
from .conftest import MakeUser, OpenPage

pytestmark = pytest.mark.browser
PAIR = '{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n'


def test_a_file_is_sent_and_its_report_or_its_refusal_shown(
    make_user: MakeUser, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    admin: User = make_user("admin", "Ada Okafor")
    with transaction() as session:
        project = make_project(session, admin)
    page = open_page(admin)
    file = tmp_path / "pairs.jsonl"
    file.write_text(PAIR + "{}\n")
    page.goto(f"/projects/{project.id}/import")
    expect(page.get_by_text("Sending the file")).to_be_hidden()
    watch.expect("422")
    for content, shown in ((PAIR + "{}\n", "Line 2 "), (PAIR, "Imported from pairs.jsonl")):
        file.write_text(content)
        page.get_by_label("File", exact=True).set_input_files(file)
        page.get_by_label("Format", exact=True).select_option("trl-text")
        page.get_by_role("button", name="Import").click()
        expect(page.get_by_text(shown).first).to_be_visible()
    expect(page).to_have_url(re.compile(r"/imports/[0-9a-f-]{36}$"))


def test_a_large_file_leads_to_a_page_that_follows_the_worker(
    make_user: MakeUser, open_page: OpenPage, tmp_path: Path
) -> None:
    admin: User = make_user("admin", "Ada Okafor")
    with transaction() as session:
        project = make_project(session, admin)
    file = tmp_path / "hh-rlhf.jsonl"
    file.write_text(PAIR.replace("Why?", "Why? " + "x" * 1_000_000) + PAIR * 1_000 + "{}\n")
    page = open_page(admin)
    page.goto(f"/projects/{project.id}/import")
    page.get_by_label("File", exact=True).set_input_files(file)
    page.get_by_label("Format", exact=True).select_option("trl-text")
    page.get_by_role("button", name="Import").click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    expect(page.get_by_text("Waiting for a worker to be free.")).to_be_visible()
    with transaction() as session:
        claimed = jobs.claim(session)
        assert claimed is not None
    with transaction() as session:
        assert jobs.beat(session, claimed, 0.4)
    expect(page.get_by_text("40 % done, about")).to_be_visible()
    assert list(defects_of(page)) == []
    with transaction() as session:
        assert jobs.give_back(session, claimed, "The worker was stopped. It is begun anew.")
    while job_child.do_next():
        pass
    expect(page.get_by_text("Line 1002 ")).to_be_visible()
    assert list(defects_of(page)) == []
