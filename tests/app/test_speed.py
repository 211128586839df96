"""What makes the desk fast and can be counted: statements, not seconds, which `bench/` measures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from browsers import Browser, MakeUser, SignIn
from labeling_world import make_world
from sqlalchemy import event

from app import db

RANKS = {"rank_A": "1", "rank_B": "2", "rank_C": "2"}


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect every statement that goes to PostgreSQL."""
    statements: list[str] = []

    def hear(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(" ".join(statement.split()))

    event.listen(db.get_engine(), "before_cursor_execute", hear)
    yield statements
    event.remove(db.get_engine(), "before_cursor_execute", hear)


def submit(browser: Browser, address: str, submit_id: str) -> tuple[str, str]:
    """Rank a task as the page's script does, and return address and submit id of the next."""
    answer = browser.post_form(f"{address}/ranking", {"submit_id": submit_id, **RANKS}, headers={"HX-Request": "true"})
    assert answer.status_code == 200, answer.text
    return answer.headers["HX-Push-Url"], re.findall(r'name="submit_id" value="([^"]+)"', answer.text)[0]


def test_a_submit_with_the_next_task_sends_few_statements_however_much_was_done(
    database: str, make_user: MakeUser, sign_in: SignIn
) -> None:
    world = make_world(number_of_prompts=8)
    browser = sign_in(make_user("labeler"))
    address = browser.post_form(f"/work/{world.project_id}/next", {"kind": "ranking"}).headers["location"]
    submit_id = re.findall(r'name="submit_id" value="([^"]+)"', browser.get(address).text)[0]
    counts = []
    for _ in range(6):
        with heard() as statements:
            address, submit_id = submit(browser, address, submit_id)
        counts.append(len(statements))
    assert len(set(counts)) == 1, counts
    assert counts[0] <= 30, "\n".join(statements)
