"""Rendered text: what people and models write is shown richly, from its own side, and does no harm."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile_text import MARKDOWN_PAYLOADS, PAYLOADS, became_markup

from app.prose import limits, sanitise
from app.prose.formulas import to_mathml
from app.prose.highlight import CLASSES, highlight
from app.prose.limits import Budget
from app.prose.markdown import render
from app.templating import STATIC

DATA = Path(__file__).parents[3] / "shared/data"


class Elements(HTMLParser):
    """The elements of some HTML with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.seen if name == tag]


def check(html: str, text: str) -> None:
    """Fail unless everything in the HTML is on the allow-list, links lead outside, and nothing became markup."""
    assert became_markup(html) == [], text
    for tag, attributes in Elements(html).seen:
        assert tag in sanitise.ATTRIBUTES, text
        assert attributes.keys() <= {*sanitise.ATTRIBUTES[tag], *(["rel"] if tag == "a" else [])}, text
        for name, value in attributes.items():
            assert sanitise.is_allowed(name, value), (name, value, text)
        if "href" in attributes:
            assert re.match(r"(https?://|mailto:)", attributes["href"]), text
            assert attributes["rel"] == "noopener nofollow"


# ── what it shows ────────────────────────────────────────────────────────────


def test_text_of_guidelines_and_answers_keeps_its_form() -> None:
    html = render(
        "# Rules\n\n1. *Be* **kind**, see [this](https://example.org/a?b=c)\n   - ~~never~~ gently\n\n"
        "| a | b |\n|---|--:|\n| 1 | 2 |\n\n7. seventh"
    )
    assert '<h4 class="level-1">Rules</h4>' in html
    assert "<em>Be</em> <strong>kind</strong>" in html
    assert '<a href="https://example.org/a?b=c" target="_blank" rel="noopener nofollow">this</a>' in html
    assert "<ul>\n<li><s>never</s> gently</li>\n</ul>" in html
    assert '<td class="end">2</td>' in html
    assert '<ol start="7">' in html


def test_html_is_shown_as_the_text_it_is() -> None:
    assert render("a <b>bold</b> claim") == "<p>a &lt;b&gt;bold&lt;/b&gt; claim</p>\n"


def test_headings_follow_the_pages_own_without_a_gap() -> None:
    text = "### deep\n\n# top\n\n## under\n\n#### far under\n\n# top again"
    assert re.findall(r'<h(\d) class="level-(\d)">', render(text, 2)) == [
        ("3", "3"),
        ("3", "1"),
        ("4", "2"),
        ("5", "4"),
        ("3", "1"),
    ]


@pytest.mark.parametrize(
    ("language", "code", "marked"),
    [
        ("python", "def f(x):  # why\n    return 'a<b'", ["hl-k", "hl-f", "hl-c", "hl-s"]),
        ("js", "const a = `x${1}`; // note", ["hl-k", "hl-s", "hl-n", "hl-c"]),
        ("C++", "#include <x>\nint main() { return 0; }", ["hl-c", "hl-k", "hl-n"]),
        ("sql", "SELECT 1 FROM t WHERE a = 'b'", ["hl-k", "hl-n", "hl-s"]),
        ("diff", "-old\n+new", ["hl-d", "hl-i"]),
        ("html", "<p class='a'>x</p><script>alert(1)</script>", ["hl-k", "hl-f", "hl-s"]),
    ],
)
def test_code_is_highlighted(language: str, code: str, marked: list[str]) -> None:
    html = render(f"```{language}\n{code}\n```")
    assert {attributes["class"] for attributes in Elements(html).of("span")} >= set(marked)
    assert Elements(html).words == f"{code}\n\n"
    check(html, code)


def test_code_in_a_language_we_do_not_know_is_shown_plain() -> None:
    assert "<code>a &lt; b\n</code>" in render("```brainfudge\na < b\n```")
    assert "<code>a &lt; b\n</code>" in render("    a < b\n")


@pytest.mark.parametrize(
    ("text", "latex", "display"),
    [
        ("so $x_1^2$, then", "x_1^2", "inline"),
        (r"so \(\frac{a}{b}\) then", r"\frac{a}{b}", "inline"),
        ("the $n$-th, ($k$)", "n", "inline"),
        ("设$x$为", "x", "inline"),
        ("$6.674 \\times 10^{-11} m^3 \\cdot kg^{-1}$", "6.674 \\times 10^{-11} m^3 \\cdot kg^{-1}", "inline"),
        ("$$\\sum_i x_i$$", "\\sum_i x_i", "block"),
        ("Thus:\n$$\na\n= b\n$$\nand", "a\n= b", "block"),
        ("> \\[\n> x = 1\n> \\]\n> yes", "x = 1", "block"),
        ("in a line \\[ y \\] here", "y", "block"),
        ("```math\nx\n```", "x", "block"),
        ("- item\n\n  \\begin{align}\n  a &= b\n  \\end{align}", "\\begin{align}\na &= b\n\\end{align}", "block"),
        ("| f |\n|---|\n| $x$ |", "x", "inline"),
    ],
)
def test_formulas_become_mathml(text: str, latex: str, display: str) -> None:
    html = render(text)
    assert Elements(html).of("math")[0] == {"display": display, "dir": "ltr", "alttext": latex}
    check(html, text)


@pytest.mark.parametrize(
    "text",
    [
        "between $5 and $10 a month",
        "below 150$, above 20$, that is it",
        "$20-$30, ($300) $25/gb, $5, sells for 10$ more",
        "US$5 or CA$7",
        "echo $HOME/$USER and $PATH:$x",
        "$a = $b + $c;",
        r"a \$x\$ b",
        r"\[not a link\](https://example.org)",
        r"\(just some words\)",
        "$$",
        "$ x $",
    ],
)
def test_prices_variables_and_escapes_are_no_formulas(text: str) -> None:
    assert Elements(render(text)).of("math") == []
    assert 'class="latex"' not in render(text)


@pytest.mark.parametrize(
    "latex",
    [
        r"\frac{1}{",
        r"\unknowncommand x",
        r"\href{https://e.example}{x}",
        r"\class{button}{x}",
        r"\newcommand{\a}{\a\a}\a",
        r"\def\a{xx}\a",
        r"\left( x",
        "{" * 200 + "}" * 200,
        "x" * (limits.FORMULA - 1) + "yz",
    ],
)
def test_latex_that_cannot_be_shown_faithfully_is_shown_as_its_source(latex: str) -> None:
    assert to_mathml(latex, display=False) is None
    html = render(f"a ${latex}$ b")
    assert Elements(html).of("math") == []
    assert f"${latex}$" in Elements(html).words
    assert render(f"a $x$ {latex} b").count("<math") == 1


def test_styles_of_letters_are_letters_that_every_browser_knows() -> None:
    html = render(r"$\mathbf{v} \mathbb{RC} \mathcal{L} \mathfrak{g} \boldsymbol{\alpha}$")
    assert "mathvariant" not in html
    names = ("MATHEMATICAL BOLD SMALL V", "DOUBLE-STRUCK CAPITAL R", "DOUBLE-STRUCK CAPITAL C")
    names += ("SCRIPT CAPITAL L", "MATHEMATICAL FRAKTUR SMALL G", "MATHEMATICAL BOLD ITALIC SMALL ALPHA")
    assert [name for name in names if unicodedata.lookup(name) not in html] == []


def test_bare_addresses_become_links_and_leave_the_sentence_its_punctuation() -> None:
    html = render("See https://example.org/a_(b)_c, (http://x.example/y). `http://no.example` ftp://no.example")
    assert [link["href"] for link in Elements(html).of("a")] == ["https://example.org/a_(b)_c", "http://x.example/y"]


def test_an_image_is_its_words_and_a_link() -> None:
    html = render("![a *cat*](https://e.example/cat.png) [![in a link](https://e.example/p.png)](https://f.example)")
    assert Elements(html).words.strip() == "image: a cat (https://e.example/cat.png) image: in a link"
    assert [link["href"] for link in Elements(html).of("a")] == ["https://e.example/cat.png", "https://f.example"]
    assert Elements(render("![x](data:image/png;base64,AAAA)")).of("a") == []


def test_each_block_is_written_from_its_own_side() -> None:
    html = render(
        "# שלום\n\nEnglish, then עברית.\n\nعربي `code` $x$\n\n- ראשון\n- second\n\n  פסקה\n\n> 12 `x` ציטוט\n\n"
        "| שם | name |\n|---|---|\n| 12 | ב |\n\n```python\n# הערה\n```"
    )
    for expected in (
        '<h4 dir="rtl" class="level-1">',
        "<p>English",
        '<p dir="rtl">عربي <code dir="ltr">code</code> <math display="inline" dir="ltr"',
        '<ul dir="rtl">\n<li>\n<p>ראשון</p>',
        '<li dir="ltr">\n<p>second</p>\n<p dir="rtl">פסקה</p>',
        '<blockquote dir="rtl">\n<p>12',
        '<table dir="rtl">',
        "<th>שם</th>",
        '<th dir="ltr">name</th>',
        "<td>12</td>",
        '<pre dir="ltr"',
    ):
        assert expected in re.sub(r"class=\"(\S+)\" dir=\"rtl\"", r'dir="rtl" class="\1"', html), expected


# ── what it withstands ───────────────────────────────────────────────────────


def test_nothing_hostile_leaves_the_allow_list() -> None:
    assert len(set(MARKDOWN_PAYLOADS)) >= 400
    for payload in (*PAYLOADS, *MARKDOWN_PAYLOADS):
        check(render(payload), payload)
    for attack in (
        "<script>alert(1)</script>",
        "<p onclick=alert(1)>",
        "<a href=javascript:x>",
        "<math><mi>x</mi></math>",
        "<math alttext=x><annotation-xml>",
        "<p data-hx-get=/x>",
    ):
        assert became_markup(attack), attack


def test_the_sanitiser_alone_stops_what_no_rule_of_ours_would_write() -> None:
    for payload in (*PAYLOADS, *MARKDOWN_PAYLOADS):
        check(re.sub(r"<math(?![^>]*alttext)", '<math alttext="x"', sanitise.sanitise(payload)), payload)
    assert sanitise.sanitise('<p class="card" id="main" style="x" dir="ltr">x</p>') == '<p dir="ltr">x</p>'
    assert sanitise.sanitise('<span class="hl-k card">x</span><code class="hl-k">y</code>').count("class") == 1
    assert sanitise.sanitise("<math><mspace width='1000cm'></mspace></math>") == "<math><mspace></mspace></math>"
    assert sanitise.sanitise("<a href='/sign-out'>x</a>") == '<a rel="noopener nofollow">x</a>'


@pytest.mark.parametrize(
    "text",
    ["x" * (limits.TEXT + 1), ">" * 10_000 + " deep", "\n".join(" " * 2 * level + "- x" for level in range(100))],
)
def test_a_text_too_long_or_too_deep_is_shown_whole_as_it_was_written(text: str) -> None:
    html = render(text)
    assert html.startswith('<div class="written">')
    assert Elements(html).words == text


@pytest.mark.parametrize(
    "unit", ["[", "*", "![[", "`a", "$", "$a\\$", "\\[\n", "\\begin{align}\n", "http://", "<", "| a"]
)
def test_a_tiresome_text_is_shown_whole(unit: str) -> None:
    text = unit * (4_000 // len(unit))
    html = render(text)
    check(html, unit)
    kept = re.sub(r"[^a-z]", "", text)
    assert re.sub(r"[^a-z]", "", Elements(html).words.replace("http://", "http")) == kept


def test_formulas_and_code_are_rendered_until_the_budget_is_spent_and_shown_plain_from_there() -> None:
    html = render("$x$ " * 5_000)
    assert html.count("<math") == Budget().formulas // 21
    assert html.count('class="latex"') == 5_000 - html.count("<math")
    block = "```python\n" + "x = 1\n" * 1_000 + "```\n\n"
    words = render(block * 8)
    assert words.count("<pre") == 8
    assert words.count("hl-n") == 1_000 * (Budget().code // 6_000)
    assert "hl-" not in render("```python\n" + "x = 1\n" * 2_000 + "```")
    assert "hl-" not in render("```python\nx = " + "1" * limits.CODE_LINE + "\n```")


def test_code_that_takes_too_long_is_shown_plain() -> None:
    assert highlight("if x < 1", "python", seconds=0) == "if x &lt; 1"
    assert "hl-k" in highlight("if x < 1", "python", seconds=60)


# ── how it looks ─────────────────────────────────────────────────────────────


def test_highlighted_code_can_be_read_by_day_and_by_night() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    colours = (STATIC / "prose.css").read_text()
    used = set(re.findall(r"\.(hl-\w) \{ color: var\(--hl-", colours))
    assert used == CLASSES
    for scheme, tokens in enumerate((STATIC / "plackett.css").read_text().split("prefers-color-scheme: dark")[:2]):
        ground = luminance(re.findall(r"--sunken: (#\w{6})", tokens)[0])
        found = re.findall(r"--(hl-\w+): (#\w{6})", colours.split("prefers-color-scheme: dark")[scheme])
        assert len(found) == 8
        for name, colour in found:
            light, dark = sorted((luminance(colour), ground), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, name)


@pytest.mark.skipif(not DATA.exists(), reason="the public data is not beside this checkout")
def test_every_text_of_the_public_data_is_rendered_within_the_allow_list() -> None:
    def texts(message: dict[str, object]) -> list[str]:
        replies = message.get("replies", [])
        assert isinstance(replies, list)
        return [str(message["text"]), *(text for reply in replies for text in texts(reply))]

    found: list[str] = []
    for line in (DATA / "open-assistant/en_100_tree.jsonl").read_text().splitlines():
        found += texts(json.loads(line)["prompt"])
    for line in (DATA / "mt-bench/question.jsonl").read_text().splitlines():
        found += [*json.loads(line)["turns"], *json.loads(line).get("reference", [])]
    with gzip.open(DATA / "hh-rlhf/harmless-base-test.jsonl.gz", "rt") as lines:
        found += [json.loads(line)["chosen"] for line, _ in zip(lines, range(300), strict=False)]
    rendered = [render(text) for text in found]
    for text, html in zip(found, rendered, strict=True):
        check(html, text)
    everything = "".join(rendered)
    assert everything.count("<math") >= 10
    assert everything.count("hl-k") >= 100
    assert 'class="latex"' not in everything, "every formula in it is sound, and no price is taken for one"


def test_a_line_end_stays_a_line_end() -> None:
    assert render("Roses are red,\nviolets are blue.").count("<br>") == 1
