"""What the demo reads off our own pages: forms with their hidden fields, refusals, and the task of a labeler.

The simulated labelers see what a person sees and nothing else, so answers are read back from the rendered page. What
Markdown had turned into lists, headings and bold type becomes Markdown again, since the preference looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())  # noqa: SIM905  # reads better
_BLOCKS = frozenset({"p", "ul", "ol", "pre", "blockquote", "table", "tr", "h1", "h2", "h3", "h4", "h5", "h6"})
_MARKS = {"strong": "**", "em": "*", "s": "~~", "code": "`"}


class PageError(ValueError):
    """A page does not hold what the demo looks for on it."""


@dataclass
class Element:
    """One element of a page: its children are elements and texts, in order."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> frozenset[str]:
        """The element's class names."""
        return frozenset(self.attributes.get("class", "").split())

    def walk(self) -> Iterator[Element]:
        """Yield this element and all below it, in document order."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def find(self, tag: str = "", css_class: str = "", **attributes: str) -> Iterator[Element]:
        """Yield the elements below with this tag, class and attributes (`data_letter` means `data-letter`)."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        for element in self.walk():
            if (
                tag in ("", element.tag)
                and (not css_class or css_class in element.classes)
                and all(element.attributes.get(name) == value for name, value in wanted.items())
            ):
                yield element

    def text(self) -> str:
        """Return all text below, as it stands."""
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)


@dataclass(frozen=True)
class Form:
    """A form as a browser would send it untouched, and the choices of its selects (and checkboxes) by their labels."""

    action: str
    fields: dict[str, str]
    choices: dict[str, dict[str, str]]


@dataclass(frozen=True)
class TaskPage:
    """A labeler's task: the question and, where it is a ranking, the answers' texts by letter."""

    form: Form
    question: str
    answers: dict[str, str]


def parse(html: str) -> Element:
    """Return the page's root element."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    return builder.root


def form(page: Element, action: str, **fields: str) -> Form:
    """Return the form of `page` that is sent to `action` (with or without a query) and holds these fields."""
    for element in page.find("form"):
        target = element.attributes.get("action", "")
        if action in (target, target.split("?")[0]):
            found = _read_form(element, target)
            if fields.items() <= found.fields.items():
                return found
    raise PageError(f"The page has no form that is sent to {action}.")


def refusal(page: Element) -> str:
    """Return the first sentence of the page that says why something was refused, or an empty text."""
    for css_class in ("notice-danger", "field-error", "error-text"):
        for element in page.find(css_class=css_class):
            return " ".join(element.text().split())
    return ""


def task(page: Element) -> TaskPage:
    """Read the task on a labeler's page."""
    root = next(page.find(id="task"), None)
    if root is None:
        raise PageError("The page shows no task.")
    asked = [text for message in root.find(css_class="message-user") for text in message.find(css_class="plain-text")]
    kind, address = root.attributes.get("data-kind"), ""
    for element in root.find("form"):
        target = element.attributes.get("action", "")
        if target.endswith(f"/{kind}"):
            address = target
    answers = {}
    for article in root.find("article", "answer"):
        prose = next(article.find(css_class="prose"), None)  # an empty answer has none
        answers[article.attributes["data-letter"]] = markdown_of(prose) if prose else ""
    return TaskPage(form(root, address), asked[-1].text(), answers)


def markdown_of(element: Element) -> str:
    """Return rendered Markdown as text again: paragraphs, list items, headings and bold type as they are written."""
    return _markdown(element).strip()


def _markdown(element: Element) -> str:
    pieces: list[str] = []
    for child in element.children:
        if isinstance(child, str):
            pieces.append(child if child.strip() else " " if " " in child and "\n" not in child else "")
            continue
        if child.tag == "math":
            mark = "$$" if child.attributes.get("display") == "block" else "$"
            pieces.append(f"{mark}{child.attributes.get('alttext', '')}{mark}")
            continue
        inside = _markdown(child)
        if child.tag == "li":
            number = len([piece for piece in pieces if piece.strip()]) + 1
            mark = f"{number}." if element.tag == "ol" else "-"
            pieces.append(f"{mark} {inside.strip()}\n")
        elif child.tag in _BLOCKS:
            level = next((int(name[-1]) for name in child.classes if name.startswith("level-")), 0)
            heading = "#" * level + " " * bool(level)
            pieces.append(f"{heading}{inside.strip()}\n\n")
        elif child.tag == "br":
            pieces.append("\n")
        else:
            mark = _MARKS.get(child.tag, "")
            pieces.append(f"{mark}{inside}{mark}")
    return "".join(pieces)


def _read_form(element: Element, action: str) -> Form:
    fields: dict[str, str] = {}
    choices: dict[str, dict[str, str]] = {}
    labels = {label.attributes.get("for", ""): " ".join(label.text().split()) for label in element.find("label")}
    for control in element.walk():
        name, kind = control.attributes.get("name"), control.attributes.get("type", "text")
        if name is None:
            continue
        if control.tag == "select":
            options = {" ".join(item.text().split()): _value(item) for item in control.find("option")}
            choices[name] = options
            chosen = [item for item in control.find("option") if "selected" in item.attributes]
            fields[name] = _value(chosen[0]) if chosen else next(iter(options.values()), "")
        elif control.tag == "textarea":
            fields[name] = control.text()
        elif control.tag == "input" and kind in ("radio", "checkbox"):
            label = labels.get(control.attributes.get("id", ""), control.attributes.get("value", ""))
            choices.setdefault(name, {})[label] = control.attributes.get("value", "on")
            if "checked" in control.attributes:
                fields[name] = control.attributes.get("value", "on")
        elif control.tag == "input" and kind != "file":
            fields[name] = control.attributes.get("value", "")
    return Form(action, fields, choices)


def _value(option: Element) -> str:
    return option.attributes.get("value", option.text().strip())


class _Builder(HTMLParser):
    """Builds elements from our templates' well-formed HTML; a stray end tag closes up to its start or nothing."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add an element without content, as inside SVG."""
        self._open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost open element of that name."""
        for depth in range(len(self._open) - 1, 0, -1):
            if self._open[depth].tag == tag:
                del self._open[depth:]
                return

    def handle_data(self, data: str) -> None:
        """Add text."""
        self._open[-1].children.append(data)
