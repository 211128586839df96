"""Due times: a cron expression with five fields, read on the clock of an IANA time zone, as moments in UTC.

A fixed time of day is due once a day. Where the clock jumps over it, it is due at the first moment after the jump;
where the clock shows it twice, at the first of the two. An expression whose hours or minutes begin with a star counts
real time instead: it is due whenever the clock shows such a time. (Both as Debian's cron does it.)
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from app.errors import InvalidInputError

FIELDS = 5


def check(cron: str, timezone: str) -> None:
    """Raise `InvalidInputError` unless the expression has a due time to come in this time zone."""
    next(due_times(cron, timezone, datetime.now(UTC)))


def due_times(cron: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """Yield the due times after a moment in order, in UTC, each later than the one before.

    Raises `InvalidInputError` for an expression or a zone that nobody knows, or that is never due.
    """
    moment = after.astimezone(UTC)
    for due in _walk(cron, zone(timezone), moment):
        found = due.astimezone(UTC)
        # In the hour that the clock shows twice, a walk that begins in its second half looks back into the first; and
        # two times inside a jump are due at the same moment.
        if found > moment:
            moment = found
            yield found
    raise InvalidInputError(f"“{cron}” is never due; give a time that some day has.")


def next_times(cron: str, timezone: str, after: datetime, count: int) -> list[datetime]:
    """Return the next `count` due times."""
    return list(islice(due_times(cron, timezone, after), count))


def zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name, or raise `InvalidInputError`."""
    if name not in zones():
        raise InvalidInputError(f"“{name}” is no time zone; give a name such as Europe/Berlin.")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInputError(f"The time zone “{name}” cannot be read on this machine.") from None


@lru_cache(maxsize=1)
def zones() -> tuple[str, ...]:
    """Return the names of all time zones, the regions' first."""
    names = {name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "SystemV/"))}
    return (*sorted(names), "UTC")


def in_words(cron: str) -> str:
    """Return the expression as a sentence without its full stop, such as “At 02:00 on Monday”."""
    return CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)).explain()


def _walk(cron: str, tz: ZoneInfo, after: datetime) -> CronSim:
    if len(cron.split()) != FIELDS:
        raise InvalidInputError(
            "A cron expression has five fields: minute, hour, day of the month, month, day of the week; "
            "0 2 * * 1 is every Monday at 02:00."
        )
    try:
        return CronSim(cron, after.astimezone(tz))
    except CronSimError as error:
        field = str(error).removeprefix("Bad ").replace("-", " ")
        raise InvalidInputError(
            f"The cron expression's {field} will not do; 0 2 * * 1 is every Monday at 02:00."
        ) from None


def shown(due: datetime, timezone: str) -> str:
    """Return a moment on the zone's clock, such as “Mon 30 Nov 2026, 02:00 CET”."""
    local = due.astimezone(zone(timezone))
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M %Z}"
