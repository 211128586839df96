"""Logs: one JSON line for each event, or plain lines on a terminal, and never a secret in either.

    {"time": "2026-11-29T02:10:11.123Z", "level": "info", "process": "web", "event": "GET /people 200 4 ms", …}

What belongs to everything that happens inside a piece of work (`request_id`, `run_id`, `job_id`) is bound once, with
`context`. What belongs to one line is given as `extra=fields(…)`.
"""

from __future__ import annotations

import json
import logging
import logging.config
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any
from urllib.parse import unquote

from app.settings import Settings, get_settings

LONGEST = 16_000
"""Characters of one event or one traceback; what is longer is cut in its middle, where it says least."""

HIDDEN = "[hidden]"
SHORTEST_SECRET = 6  # to hide a shorter one wherever it stands would make the lines unreadable

# Our own secrets by their shape, whoever has let them into a line: API tokens, webhook secrets, what a bearer sends,
# the user's part of an address, and the 256 random bits of sessions, forms and invitations.
_SHAPES = re.compile(
    r"pkt_[0-9a-f]{16}_[0-9a-f]{64}|whsec_[A-Za-z0-9+/=_-]+|(?<=Bearer )\S+|(?<=://)[^\s/@'\"]+(?=@)"
    r"|(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"
)
_LEVELS = {"app": "INFO", "uvicorn": "INFO", "celery": "INFO", "py.warnings": "WARNING"}

_context: ContextVar[Mapping[str, object]] = ContextVar("log_context", default=MappingProxyType({}))
_known: tuple[Settings, Sequence[str]] | None = None
logger = logging.getLogger(__name__)


@contextmanager
def context(**values: object) -> Iterator[None]:
    """Put these values on every line that is logged inside, threads of `app.worker.errand` included."""
    token = _context.set({**_context.get(), **values})
    try:
        yield
    finally:
        _context.reset(token)


def bind(values: Mapping[str, object]) -> None:
    """Put these values on every line from now on, in the place of those before: for signals, which cannot wrap."""
    _context.set(dict(values))


def fields(**values: object) -> dict[str, Any]:
    """Return what `extra` takes, so that these values stand on one line."""
    return {"fields": values}


def configure(process: str) -> None:
    """Let this process log in the format of the settings, its last words included."""
    logging.config.dictConfig(config(process))
    logging.captureWarnings(capture=True)
    sys.excepthook = _last_words


def config(process: str) -> dict[str, Any]:
    """Return the configuration of a process, for those who hand it on (uvicorn to its workers)."""
    wanted = get_settings().log_format
    as_text = sys.stderr.isatty() if wanted == "auto" else wanted == "text"
    line = {"()": f"{__name__}.{'TextLine' if as_text else 'JsonLine'}", "process": process}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": line},
        "filters": {"calm": {"()": f"{__name__}.Calm"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["calm"]}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {name: {"level": level} for name, level in _LEVELS.items()},
    }


class Calm(logging.Filter):
    """Drops what is said every few seconds and says nothing: that a tick was sent, was taken, is done."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is to be kept."""
        return record.levelno > logging.INFO or "plackett.tick" not in record.getMessage()


class JsonLine(logging.Formatter):
    """An event as one line of JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
            "event": hide(_said(record)),
            **_values(record),
        }
        if record.exc_info and record.exc_info[1]:
            line["error"] = _name(record.exc_info[1])
            line["traceback"] = hide(_traceback(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLine(logging.Formatter):
    """An event for a person's terminal."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the lines of a traceback after it."""
        values = "".join(f"  {name}={value}" for name, value in _values(record).items())
        clock = _time(record).astimezone().strftime("%H:%M:%S")
        line = f"{clock} {record.levelname:<7} {self._process}: {hide(_said(record))}{values}"
        if record.exc_info and record.exc_info[1]:
            line += "\n" + hide(_traceback(record.exc_info[1])).rstrip()
        return line


def hide(text: str) -> str:
    """Return the text without secrets: those of the settings by their value, our own by their shape."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return _SHAPES.sub(HIDDEN, text)


def _secrets() -> Sequence[str]:
    """Return the secrets of the settings, as they are and as addresses spell them, the longest first."""
    global _known  # noqa: PLW0603 # read once for each settings: an endpoint's key may stand in a file
    settings = get_settings()
    if _known is None or _known[0] is not settings:
        found = {secret for secret in _secrets_of(settings) if len(secret) >= SHORTEST_SECRET}
        _known = settings, sorted(found, key=len, reverse=True)
    return _known[1]


def _secrets_of(settings: Settings) -> Iterator[str]:
    for url in (settings.database_url, settings.redis_url):
        # Not the parts that a parser finds: an address with a "/" or "#" in its password is cut in the wrong place.
        if url and (password := re.match(r"[^:/]+://[^:@]*:(.*)@", url)):
            yield from {password[1], unquote(password[1])}
    for held in (settings.metrics_token, settings.model_server_key):
        if held is not None:
            yield held.get_secret_value()
    for endpoint in settings.endpoints.values():
        try:
            yield endpoint.key()
        except KeyError:
            continue  # its variable is not set here, so there is nothing to hide


def _values(record: logging.LogRecord) -> dict[str, object]:
    own: Mapping[str, object] = getattr(record, "fields", {})
    return {name: hide(value) if isinstance(value, str) else value for name, value in {**_context.get(), **own}.items()}


def _said(record: logging.LogRecord) -> str:
    """Return the message. Celery's about a task that failed repeats the error's text; ours is with the traceback."""
    data = getattr(record, "data", None)
    if record.exc_info and isinstance(data, dict) and {"name", "id"} <= data.keys():
        return f"Task {data['name']}[{data['id']}] failed"
    return record.getMessage()


def _traceback(error: BaseException) -> str:
    """Return the traceback with its causes. Of a database's error only what cannot hold data: no values, no rows."""
    lines: list[str] = []
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        lines[:0] = [*traceback.format_tb(at.__traceback__), f"{_name(at)}: {_message(at)}\n"]
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
        if at is not None:
            lines.insert(0, "\nand then:\n")
    return "".join(lines)


def _message(error: BaseException) -> str:
    inner = getattr(error, "orig", error)  # SQLAlchemy's errors carry the driver's
    if not hasattr(inner, "sqlstate"):
        return str(error)
    told = getattr(inner, "diag", None)
    parts = {"sqlstate": inner.sqlstate} | {
        name: getattr(told, f"{name}_name", None) for name in ("table", "column", "constraint")
    }
    return " ".join(f"{name}={value}" for name, value in parts.items() if value) or "no answer"


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.critical("the process ends by an error that nobody expected", exc_info=(kind, error, trace))
