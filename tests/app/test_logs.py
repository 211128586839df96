"""Lines of logs: JSON or text, with what belongs to the work at hand, and without secrets."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app import logs
from app.db import transaction
from app.settings import get_settings
from app.worker.errand import Errand

MakeRecord = Callable[..., logging.LogRecord]


@pytest.fixture
def record() -> MakeRecord:
    """Makes what `logger.log` would make, an exception that is being handled included."""

    def make(message: str, *args: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
        wrong = sys.exc_info() if sys.exc_info()[0] else None
        made = logging.LogRecord("app.test", level, __file__, 1, message, args, wrong)
        made.fields = fields
        return made

    return make


def line(record: logging.LogRecord) -> dict[str, object]:
    formatted = logs.JsonLine("web").format(record)
    assert "\n" not in formatted
    found: dict[str, object] = json.loads(formatted)
    return found


def fail_while(cause: BaseException) -> None:
    raise RuntimeError("while storing") from cause


def test_a_line_names_the_work_it_belongs_to_also_from_its_errands(record: MakeRecord) -> None:
    with logs.context(run_id="r1", fence=7):
        inside = line(Errand(lambda: record("two\nlines %s", "and more", step=3)).settle())
        errand = Errand(lambda: line(record("beside"))).settle()
        with logs.context(attempt=2):
            inner = line(record("within"))
    outside = line(record("after"))
    assert inside["event"] == "two\nlines and more"
    assert (inside["process"], inside["level"], inside["step"], inside["run_id"]) == ("web", "info", 3, "r1")
    assert errand["run_id"] == "r1"
    assert (inner["fence"], inner["attempt"]) == (7, 2)
    assert "run_id" not in outside


@pytest.mark.parametrize(
    ("variable", "value", "secret"),
    [
        ("DATABASE_URL", "postgresql://me:pa%2Fss-word@db/x", "pa%2Fss-word"),
        ("DATABASE_URL", "postgresql://me:pa%2Fss-word@db/x", "pa/ss-word"),
        ("DATABASE_URL", "postgresql://me:not/a#legal@one@db/x", "not/a#legal@one"),
        ("REDIS_URL", "redis://:bell-rope@redis/0", "bell-rope"),
        ("PLACKETT_METRICS_TOKEN", "sixteen characters", "sixteen characters"),
        ("PLACKETT_ENDPOINTS", '{"a": {"base_url": "http://a/v1", "api_key": "short-key"}}', "short-key"),
        ("OTHER", "", "pkt_" + "0" * 16 + "_" + "c" * 64),
        ("OTHER", "", "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("OTHER", "", "Z" * 20 + "_-" + "7" * 21),
    ],
)
def test_a_secret_is_hidden_wherever_it_stands(
    record: MakeRecord, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, secret: str
) -> None:
    monkeypatch.setenv(variable, value)
    get_settings.cache_clear()
    said = f"near ({secret}) far"
    for formatter in (logs.JsonLine("web"), logs.TextLine("web")):
        for made in (record(said), record("%s", said), record("as a field", value=said)):
            assert "near ([hidden]) far" in formatter.format(made)
        try:
            int(said)
        except ValueError:
            assert "near ([hidden]) far" in formatter.format(record("with a traceback"))
    plain = "a run 01a22523-f3f6-757e-80f1-fbbeeb70b044 of " + "5" * 64
    assert line(record(plain))["event"] == plain


def test_an_error_of_the_database_keeps_its_rows_and_parameters_to_itself(record: MakeRecord, database: str) -> None:
    secret = "canary-in-a-row"
    insert = text("INSERT INTO users (email, name, role, password_hash) VALUES (:email, 'N', 'emperor', :secret)")
    with pytest.raises(DBAPIError) as caught, transaction() as session:
        session.execute(insert, {"email": secret, "secret": secret})
    assert secret in str(caught.value.orig), "Postgres repeats the row, so there is something to keep back"
    try:
        fail_while(caught.value)
    except RuntimeError:
        found = line(record("it failed", level=logging.ERROR))
    told = str(found["traceback"])
    assert secret not in told
    assert "CheckViolation: sqlstate=23514 table=users constraint=ck_users_role" in told
    assert told.index("CheckViolation") < told.index("RuntimeError: while storing")


def test_what_is_too_long_is_cut_in_its_middle(record: MakeRecord) -> None:
    found = str(line(record("a" * 40 + "\n" + "b " * 50_000 + "z" * 40))["event"])
    assert len(found) < 20_000
    assert found.startswith("a" * 40)
    assert found.endswith("z" * 40)


def test_ticks_that_went_well_are_not_logged_and_those_that_did_not_are(record: MakeRecord) -> None:
    calm = logs.Calm()
    assert not calm.filter(record("Task plackett.tick[%s] received", "x"))
    assert calm.filter(record("Task plackett.run[%s] received", "x"))
    assert calm.filter(record("Task plackett.tick[%s] raised", "x", level=logging.ERROR))


def test_the_format_follows_the_setting_and_else_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen() -> str:
        get_settings.cache_clear()
        found: str = logs.config("web")["formatters"]["line"]["()"]
        return found.rpartition(".")[2]

    assert chosen() == "JsonLine", "a test's stderr is no terminal"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert chosen() == "TextLine"
    monkeypatch.setenv("PLACKETT_LOG_FORMAT", "json")
    assert chosen() == "JsonLine"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.setenv("PLACKETT_LOG_FORMAT", "text")
    assert chosen() == "TextLine"
