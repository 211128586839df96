"""Turning templates into pages: strict undefined names, escaping always on, contexts that are frozen dataclasses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

import templates
from app.done import DONE
from app.prose import markdown as prose
from app.services.accounts.access import Viewer

STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class NavItem:
    """One entry of the top bar."""

    label: str
    path: str
    current: bool


@dataclass(frozen=True)
class Layout:
    """What `base.html` needs on every page. `user` is None, and `csrf_token` empty, for a stranger."""

    user: Viewer | None
    csrf_token: str
    path: str
    nav: tuple[NavItem, ...]
    done: str | None
    request_id: str


_NAV = {
    "labeler": (("Work", "/work"),),
    "reviewer": (("Work", "/work"), ("Projects", "/projects"), ("Runs", "/runs")),
    "admin": (
        ("Projects", "/projects"),
        ("Runs", "/runs"),
        ("Work", "/work"),
        ("People", "/people"),
        ("API tokens", "/tokens"),
        ("Operations", "/operations"),
    ),
}


def render(
    request: Request,
    name: str,
    context: object | None = None,
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Return the page `templates/NAME`, filled from a frozen dataclass instance, as a response."""
    return HTMLResponse(render_text(request, name, context), status_code=status, headers=headers)


def render_text(request: Request, name: str, context: object | None = None) -> str:
    """Return what `render` sends, as text. A template sees the context's fields, and `layout`."""
    values: dict[str, Any] = {}
    if context is not None:
        if not is_dataclass(context) or isinstance(context, type):
            raise TypeError(f"A template's context is a dataclass instance, not {type(context).__name__}.")
        values = {field.name: getattr(context, field.name) for field in fields(context)}
    return environment().get_template(name).render(values, layout=layout(request))


def layout(request: Request) -> Layout:
    """Return the layout's values; `app.auth` has left the signed-in user on the request, if there is one."""
    user: Viewer | None = getattr(request.state, "viewer", None)
    path = request.url.path
    items = _NAV[user.role] if user else ()
    return Layout(
        user=user,
        csrf_token=getattr(request.state, "csrf_token", None) or "",
        path=path,
        nav=tuple(NavItem(label, to, path == to or path.startswith(to + "/")) for label, to in items),
        done=DONE.get(request.query_params.get("done", "")),
        request_id=getattr(request.state, "request_id", ""),
    )


def redirect(path: str, *, done: str | None = None) -> RedirectResponse:
    """Send the browser to a path of ours with GET, where the sentence `done` (a key of `app.done.DONE`) is shown."""
    if done is not None:
        if done not in DONE:
            raise KeyError(f"{done!r} is no key of app.done.DONE")
        parts = urlsplit(path)
        query = [(key, value) for key, value in parse_qsl(parts.query) if key != "done"]
        path = parts._replace(query=urlencode([*query, ("done", done)])).geturl()
    return RedirectResponse(path, status_code=303)


def is_htmx(request: Request) -> bool:
    """Return whether htmx asks for a fragment; a page it restores from the history must be whole."""
    return "hx-request" in request.headers and "hx-history-restore-request" not in request.headers


def static_url(name: str) -> str:
    """Return the address of a file in `app/static`, with a hash of its content, so that browsers may keep it."""
    return f"/static/{name}?v={static_hash(name)}"


@lru_cache(maxsize=256)
def static_hash(name: str) -> str:
    """Return the first 12 hex digits of the file's SHA-256."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


def markdown(text: str, below: int = 3) -> Markup:
    """Return Markdown as safe HTML. `below` is the level of the heading that it stands under on the page."""
    return Markup(prose.render(text, below))  # noqa: S704  (the only HTML made from input; it has been sanitised)


def when(moment: datetime) -> Markup:
    """Return a moment as a <time> element, in UTC."""
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), f"{moment.day} {moment:%b %Y, %H:%M} UTC"
    )


def duration(hours: float) -> str:
    """Return a length of time in the words of an estimate: its two largest units at most."""
    minutes = max(1, round(hours * 60))
    days, rest = divmod(minutes, 24 * 60)
    if days >= 365:
        return "more than a year"
    parts = [(days, "day"), (rest // 60, "hour"), (rest % 60, "minute")]
    spoken = [f"{count} {unit}{'' if count == 1 else 's'}" for count, unit in parts if count]
    return " ".join(spoken[:1] if days > 2 else spoken[:2])


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the one Jinja environment. `autoescape=True` holds for every template, whatever its name ends with."""
    env = Environment(
        loader=FileSystemLoader(Path(templates.__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(duration=duration, markdown=markdown, when=when)
    env.globals.update(static_url=static_url)
    return env
