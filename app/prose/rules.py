"""What our Markdown has beyond the standard: formulas in dollars and brackets, bare addresses, writing direction."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from app.prose.limits import FORMULA

Direction = Literal["ltr", "rtl"]

_PAIRS = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_ENVIRONMENT = re.compile(r"\\begin\{((?:align|aligned|equation|gather|gathered|multline|cases|[bpvV]?matrix)\*?)\}")
_BLANK_LINE = re.compile(r"\n[ \t>]*\n")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_ADDRESS = re.compile(r"""(?<![A-Za-z0-9])https?://[^\s<>"'`\\^{}|]{1,2000}""")


def extend(md: MarkdownIt) -> None:
    """Add our rules to a parser."""
    md.inline.add_terminator_char("$")
    md.inline.ruler.before("escape", "formula", _formula)
    md.block.ruler.before(
        "fence", "formula_block", _formula_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    md.core.ruler.after("text_join", "addresses", _addresses)
    md.core.ruler.push("directions", _directions)


# ── formulas ─────────────────────────────────────────────────────────────────


def _formula(state: StateInline, silent: bool) -> bool:
    source, at = state.src, state.pos
    opening = next((candidate for candidate in _PAIRS if source.startswith(candidate, at)), None)
    if opening is None:
        return False
    closing = _PAIRS[opening]
    start = at + len(opening)
    end = _closing(source, closing, start, min(state.posMax, start + FORMULA))
    if end < 0:
        return False
    content, after = source[start:end], source[end + len(closing) : end + len(closing) + 1]
    if not content.strip() or _is_language(content) or (opening == r"\[" and after == "("):  # an escaped link
        return False
    if opening == "$" and not _is_between_dollars(source[at - 1 : at], content, after):
        return False
    if not silent:
        _push(state, content, opening, closing, is_block=False)
    state.pos = end + len(closing)
    return True


def _formula_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    if state.is_code_block(first):
        return False
    source, begin = state.src, state.bMarks[first] + state.tShift[first]
    environment = _ENVIRONMENT.match(source, begin, state.eMarks[first])
    if environment:
        opening, closing = environment[0], rf"\end{{{environment[1]}}}"
    elif source.startswith("$$", begin):
        opening, closing = "$$", "$$"
    elif source.startswith(r"\[", begin):
        opening, closing = r"\[", r"\]"
    else:
        return False
    # Each step is cheap, or comes after the cheap ones: a text may hold a line like this thousands of times.
    start = begin + len(opening)
    end = source.find(closing, start, start + FORMULA)
    line = bisect_left(state.eMarks, end)
    if end < 0 or line >= last or source[end + len(closing) : state.eMarks[line]].strip():
        return False
    if _BLANK_LINE.search(source, start, end) or min(state.sCount[first : line + 1]) < state.blkIndent:
        return False
    starts = [start, *(state.bMarks[later] + state.tShift[later] for later in range(first + 1, line + 1))]
    ends = [*(state.eMarks[earlier] for earlier in range(first, line)), end]
    content = "\n".join(source[one:other] for one, other in zip(starts, ends, strict=True))
    if not content.strip() or (not environment and _is_language(content)):
        return False
    if not silent:
        if environment:
            content, opening, closing = f"{opening}{content}{closing}", "", ""
        _push(state, content, opening, closing, is_block=True)
        state.tokens[-1].map = [first, line + 1]
        state.line = line + 1
    return True


def _push(state: StateInline | StateBlock, content: str, opening: str, closing: str, *, is_block: bool) -> None:
    token = state.push("formula", "math", 0)
    token.content = content
    token.block = is_block
    token.meta = {"source": f"{opening}{content}{closing}", "display": opening not in ("$", r"\(")}


def _closing(source: str, closing: str, start: int, stop: int) -> int:
    """Return where `closing` stands first without a backslash of its own before it, or -1."""
    end = source.find(closing, start, stop)
    while end >= 0:
        backslashes = end - len(source[start:end].rstrip("\\")) - start
        if backslashes % 2 == 0:
            return end
        end = source.find(closing, end + 1, stop)
    return -1


def _is_between_dollars(before: str, content: str, after: str) -> bool:
    """Return whether single dollars mean a formula, and not two prices or two variables of a shell."""
    if content[0].isspace() or content[-1].isspace() or "\n\n" in content:
        return False
    if any(side == "$" or (side.isascii() and side.isalnum()) for side in (before, after)):
        return False
    is_price = content[0].isdigit() and not set(content) & set("\\^_={") and _WORDS.search(content)
    return not is_price


def _is_language(content: str) -> bool:
    """Return whether it is words in brackets or dollars: several, and not one sign of mathematics."""
    return not set(content) & set("\\^_=+<>{|") and len(_WORDS.findall(content)) > 1


# ── web addresses ────────────────────────────────────────────────────────────


def _addresses(state: StateCore) -> None:
    for token in state.tokens:
        if token.type == "inline" and token.children and "://" in token.content:
            token.children = list(_with_links(state.md, token.children))


def _with_links(md: MarkdownIt, children: list[Token]) -> Iterator[Token]:
    depth = 0
    for child in children:
        depth += child.nesting if child.type in ("link_open", "link_close") else 0
        if child.type != "text" or depth:
            yield child
            continue
        done = 0
        for found in _ADDRESS.finditer(child.content):
            address = _without_punctuation(found[0])
            target = md.normalizeLink(address)
            if not md.validateLink(target):
                continue
            yield _text(child.content[done : found.start()])
            yield Token("link_open", "a", 1, attrs={"href": target})
            yield _text(address)
            yield Token("link_close", "a", -1)
            done = found.start() + len(address)
        yield _text(child.content[done:]) if done else child


def _without_punctuation(address: str) -> str:
    """Return the address without what ends the sentence around it; a bracket that was opened in it stays."""
    while address[-1] in ".,;:!?*_~" or (address[-1] in ")]" and address.count(")") > address.count("(")):
        address = address[:-1]
    return address


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)


# ── writing direction ────────────────────────────────────────────────────────


def _directions(state: StateCore) -> None:
    """Give each block the direction of its first letter, where it is not that of the block around it.

    HTML's `dir="auto"` looks past elements that have a direction themselves, so that a list of Hebrew paragraphs would
    have its bullets on the wrong side; a block without a letter keeps the direction around it, as a number in a table.
    """
    found: dict[int, Direction] = {}
    opened: list[Token] = []
    for token in state.tokens:
        if token.nesting == 1:
            opened.append(token)
        elif token.nesting == -1:
            opened.pop()
        elif token.type == "inline" and (direction := _direction_of(token)):
            for block in opened:
                found.setdefault(id(block), direction)
    around: list[Direction] = ["ltr"]
    for token in state.tokens:
        if token.nesting == 1:
            own = found.get(id(token), around[-1])
            # Parts of a table that are no text have the direction of the table.
            own = around[-1] if token.tag in ("thead", "tbody", "tr") else own
            if own != around[-1]:
                token.attrSet("dir", own)
            around.append(own)
        elif token.nesting == -1:
            around.pop()


def _direction_of(inline: Token) -> Direction | None:
    for child in inline.children or ():
        if child.type in ("text", "image"):
            for character in child.content:
                kind = unicodedata.bidirectional(character)
                if kind in ("L", "R", "AL"):
                    return "ltr" if kind == "L" else "rtl"
    return None
