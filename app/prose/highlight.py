"""Code as HTML with its words marked by a handful of classes, for languages from a closed list."""

from __future__ import annotations

import time
from functools import cache
from html import escape

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Literal, Name, Number, Operator, String, Token, _TokenType

_LANGUAGES = {
    name: language
    for language, names in {
        **dict.fromkeys(
            ("java", "php", "swift", "scala", "dart", "r", "matlab", "lua", "elixir", "clojure", "json"), ""
        ),
        **dict.fromkeys(("css", "scss", "toml", "ini", "go", "c"), ""),
        "python": "py python3",
        "javascript": "js jsx node",
        "typescript": "ts tsx",
        "cpp": "c++ hpp",
        "csharp": "c# cs",
        "rust": "rs",
        "ruby": "rb",
        "kotlin": "kt",
        "julia": "jl",
        "haskell": "hs",
        "perl": "pl",
        "sql": "postgresql mysql sqlite",
        "bash": "sh shell zsh",
        "powershell": "ps1",
        "html": "htm",
        "xml": "svg",
        "yaml": "yml",
        "latex": "tex",
        "diff": "patch",
        "make": "makefile",
        "docker": "dockerfile",
    }.items()
    for name in (language, *names.split())
}
# The first that a token belongs to counts.
_CLASSES: tuple[tuple[_TokenType, str], ...] = (
    (Comment, "hl-c"),
    (Keyword.Constant, "hl-n"),
    (Keyword, "hl-k"),
    (Operator.Word, "hl-k"),
    (String, "hl-s"),
    (Number, "hl-n"),
    (Literal, "hl-n"),
    (Name.Tag, "hl-k"),
    (Name.Attribute, "hl-f"),
    (Name.Function, "hl-f"),
    (Name.Class, "hl-f"),
    (Name.Decorator, "hl-f"),
    (Name.Builtin, "hl-b"),
    (Name.Exception, "hl-b"),
    (Name.Variable, "hl-b"),
    (Generic.Inserted, "hl-i"),
    (Generic.Deleted, "hl-d"),
    (Generic.Heading, "hl-k"),
    (Generic.Subheading, "hl-k"),
)
CLASSES = frozenset(name for _, name in _CLASSES)


def highlight(code: str, language: str, *, seconds: float) -> str:
    """Return code as HTML: escaped, with <span class> around what has a meaning in a language of our list.

    Some lexers take the cube of the length of bad input. What needs more `seconds` of processor time is only escaped.
    """
    name = _LANGUAGES.get(language.lower())
    if name is None:
        return escape(code)
    lexer = _lexer(name)  # its first use compiles it, which is not the text's doing
    end = time.thread_time() + seconds
    pieces: list[str] = []
    before: str | None = None
    for kind, text in lexer.get_tokens(code):
        if time.thread_time() >= end:
            return escape(code)
        wanted = _class_of(kind)
        if wanted != before:
            pieces += ["</span>"] * (before is not None) + [f'<span class="{wanted}">'] * (wanted is not None)
            before = wanted
        pieces.append(escape(text))
    pieces += ["</span>"] * (before is not None)
    return "".join(pieces)


@cache
def _lexer(name: str) -> Lexer:
    return get_lexer_by_name(name, stripnl=False, ensurenl=False)


@cache
def _class_of(kind: _TokenType) -> str | None:
    if kind is Token.Error:
        return None
    return next((name for family, name in _CLASSES if kind in family), None)
