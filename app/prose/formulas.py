"""LaTeX as MathML. What cannot be shown faithfully is not shown at all: the caller then shows the source."""

from __future__ import annotations

import html
import re
import unicodedata
from xml.etree import ElementTree as ET

from latex2mathml.converter import Converter

from app.prose.limits import FORMULA, FORMULA_DEPTH

# Definitions could grow exponentially; the others are no mathematics, or reach for the page around the formula.
_REFUSED = re.compile(
    r"\\(?:(?:re|provide)?newcommand|def|gdef|edef|xdef|let|href|url|class|cssId|style|html\w*|includegraphics|input"
    r"|include|require|unicode|rule|raisebox|hskip|kern|mkern|mskip|vspace|vskip)(?![A-Za-z])"
)
_UNKNOWN = re.compile(r"\\[A-Za-z]")
_UNFAITHFUL = {"href", "class", "style", "id"}
_VARIANTS = {
    "bold": ("BOLD",),
    "italic": ("ITALIC",),
    "bold-italic": ("BOLD ITALIC",),
    "script": ("SCRIPT",),
    "fraktur": ("FRAKTUR", "BLACK-LETTER"),
    "double-struck": ("DOUBLE-STRUCK",),
    "monospace": ("MONOSPACE",),
    "sans-serif": ("SANS-SERIF",),
    "sans-serif-italic": ("SANS-SERIF ITALIC",),
}
_CHARACTER = re.compile(r"(?:LATIN|GREEK) ((?:CAPITAL|SMALL)) LETTER (\w+)|(DIGIT) (\w+)")


def to_mathml(latex: str, *, display: bool) -> str | None:
    """Return a <math> element, or None where the LaTeX is broken, too long or deep, or asks for more than a formula."""
    latex = latex.strip()
    if not latex or len(latex) > FORMULA or _REFUSED.search(latex):
        return None
    try:
        root = Converter(display="block" if display else "inline").convert_to_element(latex)
    except Exception:  # noqa: BLE001  (on bad input the library fails in whatever way its parser stumbles)
        return None
    if not _is_faithful(root):
        return None
    for element in root.iter():
        _fit_for_browsers(element)
    root.attrib = {"display": root.attrib["display"], "dir": "ltr", "alttext": latex}
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _is_faithful(root: ET.Element) -> bool:
    """Walk without recursion: the depth is what is being judged."""
    level = [root]
    for _ in range(FORMULA_DEPTH):
        for element in level:
            # The library writes entities where it means characters, and passes on a command that it does not know.
            element.text = html.unescape(element.text) if element.text else None
            if (element.text and _UNKNOWN.search(element.text)) or _UNFAITHFUL & element.attrib.keys():
                return False
        level = [child for element in level for child in element]
        if not level:
            return True
    return False


def _fit_for_browsers(element: ET.Element) -> None:
    """Put letters of another style in place of `mathvariant`, which MathML Core knows only with the value normal."""
    variant = element.attrib.get("mathvariant")
    if variant in _VARIANTS and element.text:
        element.text = "".join(_styled(character, _VARIANTS[variant]) for character in element.text)
        del element.attrib["mathvariant"]


def _styled(character: str, styles: tuple[str, ...]) -> str:
    found = _CHARACTER.fullmatch(unicodedata.name(character, ""))
    if found is None:
        return character
    name = " ".join(part for part in found.groups() if part)
    for style in styles:
        for candidate in (f"MATHEMATICAL {style} {name}", f"{style} {name}"):
            try:
                return unicodedata.lookup(candidate)
            except KeyError:
                continue
    return character
