"""What WCAG 2.2 AA asks of a page that is open in Chromium: axe-core's rules, and our own where axe-core is blind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

OWN = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice")
ALL_RULES = {"runOnly": {"type": "tag", "values": TAGS}, "rules": {"target-size": {"enabled": True}}}
COLORS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}

VIEWS = ((1280, "light", ALL_RULES), (1280, "dark", COLORS), (390, "light", COLORS), (390, "dark", ALL_RULES))
"""The widths and color schemes a page is looked at in. Between two schemes of one width only colors differ."""

# What opens in its place belongs to the page. What opens over it, such as a menu, is looked at by itself: it hides what
# is below only for as long as it is wanted.
OPEN_IN_PLACE = """() => {
  for (const details of document.querySelectorAll("details")) {
    details.open = true;
    const positions = [...details.children].map((child) => getComputedStyle(child).position);
    const over = positions.includes("absolute") || positions.includes("fixed");
    if (over) details.open = false;
    details.toggleAttribute("data-layer", over);
  }
  for (const layer of document.querySelectorAll("dialog, [popover]")) layer.toggleAttribute("data-layer", true);
  return [...document.querySelectorAll("[data-layer]")].map((layer) => layer.outerHTML);
}"""
OPEN_LAYER = """(wanted) => document.querySelectorAll("[data-layer]").forEach((layer, place) => {
  const [open, close] = layer.matches("details") ? [() => { layer.open = true }, () => { layer.open = false }]
    : layer.matches("dialog") ? [() => layer.showModal(), () => layer.close()]
    : [() => layer.showPopover(), () => layer.hidePopover()];
  layer.toggleAttribute("data-layer-open", place === wanted);
  if (layer.matches("[open], :popover-open")) close();
  if (place === wanted) open();
})"""


def defects_of(page: Page, layers_seen: set[str] | None = None) -> Iterator[str]:
    """Yield a line for each defect of the page in any view, and of the menus and dialogs that open over it.

    `layers_seen` spares what was looked at on a page before, such as the menu at the top, and is added to.
    """
    seen = set() if layers_seen is None else layers_seen
    page.evaluate(AXE_SCRIPT)  # through the debugger's door, which the content security policy does not guard
    layers = {place: html for place, html in enumerate(page.evaluate(OPEN_IN_PLACE)) if html not in seen}
    seen.update(layers.values())
    for width, scheme, rules in VIEWS:
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.evaluate("scrollTo(0, 0)")  # the bar at the top covers what was scrolled below it, as it should
        found = [*axe(page, rules)]
        if rules is ALL_RULES:
            found += own(page)
            for layer in layers:
                page.evaluate(OPEN_LAYER, layer)
                found += [*axe(page, rules, "[data-layer-open]"), *own(page)]
            page.evaluate(OPEN_LAYER, -1)
        yield from (f"{width} px, {scheme}: {defect}" for defect in dict.fromkeys(found))


def axe(page: Page, rules: dict[str, Any] = ALL_RULES, within: str = "html") -> list[str]:
    """Return what axe-core finds, as "rule: element: what to do"; the page holds its script already.

    What it could not decide counts as a defect too, but for contrast, which our own check decides.
    """
    run = "([within, rules]) => axe.run(within, { ...rules, resultTypes: ['violations', 'incomplete'] })"
    found = page.evaluate(run, [within, rules])
    undecided = [rule for rule in found["incomplete"] if rule["id"] != "color-contrast"]
    return [
        f"{rule['id']}: {node['html'][:120]}: {' '.join(node['failureSummary'].split())}"
        for rule in (*found["violations"], *undecided)
        for node in rule["nodes"]
    ]


def own(page: Page) -> list[str]:
    """Return what our own checks find."""
    page.keyboard.press("Tab")  # from now on the browser shows what has the focus
    found: list[str] = page.evaluate(OWN)
    page.evaluate("document.activeElement?.blur()")  # the skip link covers what is below it while it has the focus
    return found
