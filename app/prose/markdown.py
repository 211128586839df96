"""Markdown as safe HTML: CommonMark with tables, strikethrough, formulas and highlighted code; no images, no raw HTML.

Whatever the text is, it is shown: what cannot be rendered richly (too long, too deep, broken LaTeX) stands there as it
was written. `app.prose.limits` says where that begins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from app.prose import rules
from app.prose.formulas import to_mathml
from app.prose.highlight import highlight
from app.prose.limits import CACHED, CODE_SECONDS, NESTING, TEXT, Budget
from app.prose.sanitise import sanitise

_LINK = re.compile(r"(?:https?://|mailto:)\S", re.IGNORECASE)
_SCROLLS = 'tabindex="0" role="group" aria-label="{}"'
"""For a box that may scroll sideways: the keyboard reaches it, and it has a name."""


@lru_cache(maxsize=CACHED)
def render(text: str, below: int = 3) -> str:
    """Return the HTML of a text. `below` is the level of the page's heading that the text stands under."""
    if len(text) > TEXT:
        return as_written(text)
    env: dict[str, Any] = {"budget": Budget()}
    tokens = _parser().parse(text, env)
    if any(token.level >= NESTING - 1 for token in tokens):
        return as_written(text)  # the parser has left out what lies deeper
    _settle_headings(tokens, below)
    return sanitise(_parser().renderer.render(tokens, _parser().options, env))


def as_written(text: str) -> str:
    """Return the text as it is, for a place where its HTML was expected."""
    return sanitise(f'<div class="written">{escape(text)}</div>')


# A model's line end is a line end: in a poem, an address, steps without bullets. CommonMark would make it a space.
_OPTIONS = {"html": False, "xhtmlOut": False, "breaks": True, "maxNesting": NESTING}


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    md = MarkdownIt("commonmark", _OPTIONS, renderer_cls=_Renderer)
    md.enable(["table", "strikethrough"])
    md.validateLink = lambda url: bool(_LINK.match(url))  # type: ignore[method-assign]
    rules.extend(md)
    return md


def _settle_headings(tokens: Sequence[Token], below: int) -> None:
    """Give headings the levels that follow the page's own without a gap; how each was written stays as its class."""
    around: list[int] = []
    for opening, closing in zip(
        [token for token in tokens if token.type == "heading_open"],
        [token for token in tokens if token.type == "heading_close"],
        strict=True,
    ):
        level = int(opening.tag[1])
        around = [*(outer for outer in around if outer < level), level]
        opening.attrSet("class", f"level-{level}")
        opening.tag = closing.tag = f"h{min(6, below + len(around))}"


class _Renderer(RendererHTML):
    """Writes what differs from the library's HTML; each method is named after the kind of token it writes."""

    def formula(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A formula, or its source where it cannot be one."""
        token = tokens[idx]
        return self._formula(token.content, token.meta["source"], token.meta["display"], token.block, env)

    def _formula(self, latex: str, source: str, display: bool, is_block: bool, env: EnvType) -> str:
        mathml = to_mathml(latex, display=display) if env["budget"].takes_formula(len(latex)) else None
        if mathml is None:
            code = f'<code class="latex" dir="ltr">{escape(source)}</code>'
            return f"<p>{code}</p>\n" if is_block else code
        if not display:
            return mathml
        box = "div" if is_block else "span"
        return f'<{box} class="scroll" {_SCROLLS.format("Formula")}>{mathml}</{box}>'

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A code block; one whose language is `math` is a formula."""
        token = tokens[idx]
        language = token.info.split(maxsplit=1)[0] if token.info.strip() else ""
        if language == "math":
            return self._formula(token.content, f"```math\n{token.content}```", True, True, env)
        code = token.content
        marked = highlight(code, language, seconds=CODE_SECONDS) if env["budget"].takes_code(code) else escape(code)
        return f'<pre dir="ltr" {_SCROLLS.format("Code")}><code>{marked}</code></pre>\n'

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Indented code, which names no language."""
        return f'<pre dir="ltr" {_SCROLLS.format("Code")}><code>{escape(tokens[idx].content)}</code></pre>\n'

    def code_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Code in a sentence, from left to right in any sentence."""
        return f'<code dir="ltr">{escape(tokens[idx].content)}</code>'

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """The words of a picture and a link to it: loading it would tell its owner who reads this page, and when."""
        token = tokens[idx]
        words = self.renderInlineAsText(token.children or [], options, env).strip()
        name = escape(f"image: {words}" if words else "image")
        address = str(token.attrs["src"])
        opened = sum(other.nesting for other in tokens[:idx] if other.type in ("link_open", "link_close"))
        if opened:
            return name
        shown = address if len(address) <= 120 else f"{address[:120]}…"
        return f'{name} (<a href="{escape(address)}" target="_blank">{escape(shown)}</a>)'

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A link opens beside the page, on which somebody may be in the middle of something."""
        return f'<a href="{escape(str(tokens[idx].attrs["href"]))}" target="_blank">'

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A table scrolls in a box of its own."""
        box = f'<div class="scroll" {_SCROLLS.format("Table")}>'
        return box + self.renderToken(tokens, idx, options, env)

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """The end of the table and of its box."""
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A cell; the library writes its alignment as a style, which our policy would not let through."""
        token = tokens[idx]
        style = str(token.attrs.pop("style", ""))
        if style.endswith(("center", "right")):
            token.attrSet("class", "center" if style.endswith("center") else "end")
        return self.renderToken(tokens, idx, options, env)

    td_open = th_open
