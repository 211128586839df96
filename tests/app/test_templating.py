"""Pages: text stays text, unknown names fail, files are as claimed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browsers import Browser, MakeUser, SignIn
from hostile_text import PAYLOADS, became_markup
from jinja2 import UndefinedError
from starlette.requests import Request

from app import templating
from app.done import DONE
from app.templating import STATIC, environment, redirect, render_text

TEMPLATES = Path(templating.templates.__file__).parent


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = Elements()
    reader.feed(html)
    reader.close()
    return reader.seen


def test_the_corpus_is_large_and_the_reader_sees_an_attack() -> None:
    assert len(set(PAYLOADS)) >= 300
    for attack in (
        "<script>alert(1)</script>",
        "<p onclick=alert(1)>",
        "<a href=javascript:x>",
        "<svg>",
        "<img src=x>",
    ):
        assert became_markup(attack), attack


def test_no_name_and_nothing_typed_becomes_markup(client: Browser, make_user: MakeUser, sign_in: SignIn) -> None:
    sample = PAYLOADS[::4]
    for number, payload in enumerate(sample):
        make_user(name=payload, email=f"{number}{payload}@example.org")
    admin = sign_in(make_user("admin", name='"><script>alert(1)</script>'))
    page = admin.get("/people").text
    assert "&lt;script&gt;" in page
    assert became_markup(page) == []
    for payload in PAYLOADS:
        sent = client.post("/sign-in", data={"email": payload, "password": "", "next": payload})
        assert sent.status_code == 422
        assert became_markup(sent.text) == [], payload


def test_every_template_escapes_whatever_its_name(tmp_path: Path) -> None:
    assert environment().autoescape is True
    assert environment().from_string("{{ text }}").render(text="<b>") == "&lt;b&gt;"


def test_an_unknown_name_in_a_template_fails() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ missing }}").render()


def test_a_context_is_a_dataclass() -> None:
    request = Request(
        {"type": "http", "path": "/", "query_string": b"", "headers": [], "server": ("x", 80), "scheme": "http"}
    )
    with pytest.raises(TypeError, match="dataclass"):
        render_text(request, "errors/_error.html", {"message": "x"})


def test_a_sentence_after_a_redirect_comes_from_us(client: Browser) -> None:
    assert (
        redirect("/people?page=2&done=old", done="role-changed").headers["location"]
        == "/people?page=2&done=role-changed"
    )
    with pytest.raises(KeyError):
        redirect("/people", done="your account is locked, call 555")
    assert DONE["signed-out"] in client.get("/sign-in?done=signed-out").text
    assert "call 555" not in client.get("/sign-in?done=call+555").text


def test_no_template_holds_inline_code_or_switches_escaping_off() -> None:
    for path in TEMPLATES.rglob("*.html"):
        text = re.sub(r"\{#.*?#\}", "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"\|\s*safe\b|autoescape", text), path
        assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>", text.replace('type="application/json"', 'src=""')), path
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|hx-on|javascript:", text), path
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text), path


def test_only_one_place_makes_html_from_input() -> None:
    sources = [path for path in Path(templating.__file__).parent.rglob("*.py") if "Markup(" in path.read_text()]
    assert sources == [Path(templating.__file__)]


def test_vendored_files_are_the_ones_the_list_names() -> None:
    listed = re.findall(
        r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (STATIC / "vendor/README.md").read_text(), re.MULTILINE
    )
    assert listed
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (STATIC / "vendor").glob("*.js")}
    assert dict(listed) == found


def test_htmx_is_told_to_run_nothing_and_to_keep_nothing(client: Browser) -> None:
    import html
    import json

    found = re.search(r"<meta name=\"htmx-config\" content='([^']+)'>", client.get("/sign-in").text)
    assert found
    config = json.loads(html.unescape(found.group(1)))
    wanted = {
        "allowEval": False,
        "allowScriptTags": False,
        "selfRequestsOnly": True,
        "historyCacheSize": 0,
        "includeIndicatorStyles": False,
    }
    assert {name: config[name] for name in wanted} == wanted


@dataclass(frozen=True)
class Sample:
    text: str


def test_somebodys_words_are_out_of_htmx_reach() -> None:
    template = environment().from_string(
        '{% import "_macros.html" as ui %}{{ ui.plain_text(text) }}{{ ui.prose(text) }}'
    )
    rendered = template.render(text="<p hx-get='/x'>hello</p>")
    assert rendered.count("hx-disable") == 2
    assert became_markup(rendered) == []
    assert "hx-get=" not in [name for _, attributes in elements(rendered) for name in attributes]
