"""The allow-list: which elements, attributes and values may stand in HTML that was made from somebody's text."""

from __future__ import annotations

import re

import nh3

from app.prose.highlight import CLASSES

_SIZE = r"-?\d?(?:\.\d{1,4})?(?:em|ex|px|pt)|0|-?[01](?:\.\d+)?width|(?:negative)?(?:thin|medium|thick)mathspace"
_BOOLEAN = "true|false"
_MATHML: dict[str, tuple[str, ...]] = {
    "math": ("display", "dir", "alttext"),
    "mi": ("mathvariant",),
    "mo": ("stretchy", "fence", "form", "movablelimits", "largeop", "minsize", "maxsize", "lspace", "rspace"),
    **dict.fromkeys(("mn", "ms", "mtext", "mrow", "msqrt", "mroot", "msub", "msup", "msubsup", "mphantom"), ()),
    **dict.fromkeys(("munder", "mover"), ("accent",)),
    **dict.fromkeys(("munderover", "mmultiscripts", "mprescripts", "none", "mtr"), ()),
    "mspace": ("width",),
    "mfrac": ("linethickness",),
    "mpadded": ("width", "lspace"),
    "mstyle": ("displaystyle", "scriptlevel", "mathsize"),
    "mtable": ("displaystyle",),
    "mtd": ("columnalign",),
    "menclose": ("notation",),
}
_HTML: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("p", "li", "ul", "ol", "blockquote", "table"), ("dir",)),
    **dict.fromkeys(("h2", "h3", "h4", "h5", "h6", "th", "td"), ("class", "dir")),
    **dict.fromkeys(("br", "hr", "strong", "em", "s", "thead", "tbody", "tr"), ()),
    "ol": ("dir", "start"),
    "a": ("href", "target"),
    "code": ("class", "dir"),
    "pre": ("dir", "tabindex", "role", "aria-label"),
    **dict.fromkeys(("div", "span"), ("class", "tabindex", "role", "aria-label")),
}
ATTRIBUTES = {tag: frozenset(names) for tag, names in {**_HTML, **_MATHML}.items()}
_VALUES = {
    "class": re.compile("|".join(sorted(CLASSES)) + "|level-[1-6]|center|end|scroll|latex|written"),
    "dir": re.compile("ltr|rtl"),
    "start": re.compile(r"\d{1,9}"),
    "target": re.compile("_blank"),
    "rel": re.compile("noopener nofollow"),
    "tabindex": re.compile("0"),
    "role": re.compile("group"),
    "aria-label": re.compile("Code|Table|Formula"),
    "display": re.compile("block|inline"),
    "mathvariant": re.compile("normal"),
    "form": re.compile("prefix|infix|postfix"),
    "scriptlevel": re.compile("[0-3]"),
    "linethickness": re.compile("0"),
    "columnalign": re.compile("left|center|right"),
    "notation": re.compile("[a-z ]{1,80}"),
    "alttext": re.compile(".*", re.DOTALL),
    "href": re.compile(".*", re.DOTALL),  # nh3 judges its scheme
    **{
        name: re.compile(_BOOLEAN)
        for name in ("stretchy", "fence", "movablelimits", "largeop", "accent", "displaystyle")
    },
    **{name: re.compile(_SIZE) for name in ("width", "minsize", "maxsize", "lspace", "rspace", "mathsize")},
}


def sanitise(html: str) -> str:
    """Return what of the HTML is on the list. Links lead to the web or to a mailbox, and tell nobody where from."""
    return nh3.clean(
        html,
        tags=set(ATTRIBUTES),
        attributes={tag: set(names) for tag, names in ATTRIBUTES.items()},
        attribute_filter=lambda _, name, value: value if is_allowed(name, value) else None,
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel="noopener nofollow",
    )


def is_allowed(attribute: str, value: str) -> bool:
    """Return whether an attribute may have this value."""
    allowed = _VALUES.get(attribute)
    return allowed is not None and allowed.fullmatch(value) is not None
