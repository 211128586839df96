"""Due times on the clocks of real time zones, above all in the nights when those change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidInputError
from app.services.training import timing

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def texts(cron: str, zone: str, after: str, count: int) -> list[str]:
    return [f"{due:%m-%d %H:%M}" for due in timing.next_times(cron, zone, at(after), count)]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "due"),
    [
        # In Berlin the clock jumps from 02:00 to 03:00 on 29 March 2026, at 01:00 UTC …
        ("30 2 * * *", BERLIN, "2026-03-27T12:00", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        ("0 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00"]),
        ("0 3 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 01:00"]),
        ("15,45 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 00:15", "03-30 00:45"]),
        ("0 * * * *", BERLIN, "2026-03-28T23:30", ["03-29 00:00", "03-29 01:00", "03-29 02:00"]),
        ("*/30 2 * * *", BERLIN, "2026-03-28T12:00", ["03-30 00:00", "03-30 00:30"]),
        # … and shows 02:00 to 03:00 twice on 25 October 2026, from 00:00 and from 01:00 UTC.
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
        ("30 2 * * *", BERLIN, "2026-10-25T00:30", ["10-26 01:30", "10-27 01:30"]),
        ("30 2 * * *", BERLIN, "2026-10-25T01:10", ["10-26 01:30", "10-27 01:30"]),
        ("0 * * * *", BERLIN, "2026-10-24T23:30", ["10-25 00:00", "10-25 01:00", "10-25 02:00"]),
        ("*/30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30"]),
        # Elsewhere: a change at midnight (Havana), one of half an hour (Lord Howe), a day that is missing (Apia).
        ("0 0 * * *", "America/Havana", "2026-03-07T12:00", ["03-08 05:00", "03-09 04:00"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-03 15:30", "10-04 15:15"]),
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-01T12:00", ["12-30 10:00", "12-29 22:00"]),
        ("0 2 * * 1", BERLIN, "2026-11-24T12:00", ["11-30 01:00", "12-07 01:00"]),
        ("0 2 1 * *", "Asia/Kolkata", "2026-11-24T12:00", ["11-30 20:30", "12-31 20:30"]),
    ],
)
def test_due_times_on_real_clocks(cron: str, zone: str, after: str, due: list[str]) -> None:
    assert texts(cron, zone, after, len(due)) == due


@pytest.mark.parametrize("hour_and_minute", ["30 2", "0 2", "59 2", "0 3", "30 1"])
def test_a_year_has_one_due_time_a_day_and_52_mondays(hour_and_minute: str) -> None:
    zone = ZoneInfo(BERLIN)
    after, end = at("2025-12-31T23:00"), at("2026-12-31T23:00")

    def in_the_year(cron: str) -> list[datetime]:
        return list(takewhile(lambda due: due <= end, timing.due_times(cron, BERLIN, after)))

    days = in_the_year(f"{hour_and_minute} * * *")
    assert [due.astimezone(zone).date().timetuple().tm_yday for due in days] == list(range(1, 366))
    mondays = in_the_year(f"{hour_and_minute} * * 1")
    assert len(mondays) == 52
    assert {due.astimezone(zone).isoweekday() for due in mondays} == {1}


@given(
    st.sampled_from(["30 2 * * *", "15,45 2 * * *", "0 * * * *", "*/20 2,3 * * *", "0 2 * * 0", "*/7 * * * *"]),
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.integers(0, 365 * 24 * 60),
    st.integers(1, 40),
)
@settings(max_examples=150, deadline=None)
def test_the_due_times_are_the_same_from_wherever_one_begins(cron: str, zone: str, minute: int, skip: int) -> None:
    after = at("2026-01-01T00:00") + timedelta(minutes=minute)
    whole = timing.next_times(cron, zone, after, skip + 5)
    assert whole == sorted(set(whole))
    assert whole[0] > after
    for start in (whole[skip - 1], whole[skip] - timedelta(seconds=1)):
        assert timing.next_times(cron, zone, start, 5) == whole[skip:]


@pytest.mark.parametrize(
    ("cron", "zone", "sentence"),
    [
        ("0 2 * *", BERLIN, "has five fields"),
        ("0 0 2 * * 1", BERLIN, "has five fields"),
        ("@weekly", BERLIN, "has five fields"),
        ("60 2 * * *", BERLIN, "minute will not do"),
        ("0 2 * * MOON", BERLIN, "day of week will not do"),
        ("0 2 30 2 *", BERLIN, "day of month will not do"),
        ("0 2 * * 1", "Berlin", "“Berlin” is no time zone"),
        ("0 2 * * 1", "../../etc/passwd", "is no time zone"),
    ],
)
def test_what_is_never_due_is_refused(cron: str, zone: str, sentence: str) -> None:
    timing.check("0 2 * * MON", BERLIN)
    with pytest.raises(InvalidInputError, match=sentence):
        timing.check(cron, zone)


def test_an_expression_is_said_in_words() -> None:
    assert timing.in_words("0 2 * * 1") == "At 02:00 on Monday"
