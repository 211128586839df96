"""The hands of a labeler in a browser: reading the answers of a task, ranking them by mouse, keyboard or plain form."""

from __future__ import annotations

from collections.abc import Mapping

from playwright.sync_api import Locator, Page, expect

Ranks = Mapping[str, int]
"""The rank of each answer, by its text; 1 is the best."""


def letters(page: Page) -> dict[str, str]:
    """Return the letter each answer is shown under, by its text."""
    cards = page.locator(".answer")
    expect(cards.first).to_be_visible()
    return {
        card.locator(".answer-text").inner_text().strip(): card.get_attribute("data-letter") or ""
        for card in cards.all()
    }


def drag(page: Page, letter: str, rank: int) -> None:
    """Drag an answer's letter from its card into a place of the board, as a hand does: in several small moves."""
    handle, zone = page.locator(f".letter[data-drag={letter}]"), page.locator(f"[data-zone='{rank}']")
    handle.scroll_into_view_if_needed()
    start, end = _middle(handle), _middle(zone)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 9, start[1] + 9)
    page.mouse.move(*end, steps=4)
    expect(zone).to_contain_class("is-over")
    page.mouse.up()


def drag_line(page: Page, below: int | None) -> None:
    """Drag the line to its place below a rank, or off the board."""
    mark = page.locator("[data-drag-line]")
    target = page.locator(".task-title" if below is None else f"[data-gap='{below}']")
    mark.scroll_into_view_if_needed()
    start, end = _middle(mark), _middle(target)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 9, start[1] + 9)
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def rank_by_drag(page: Page, ranks: Ranks) -> None:
    """Rank every answer with the mouse."""
    shown = letters(page)
    for text, rank in ranks.items():
        drag(page, shown[text], rank)


def rank_by_keys(page: Page, ranks: Ranks) -> None:
    """Rank every answer with the keyboard: its letter, then its rank."""
    expect(page.locator("form[data-keys]")).to_have_count(1)  # the page listens
    shown = letters(page)
    for text, rank in ranks.items():
        page.keyboard.press(shown[text].lower())
        page.keyboard.press(str(rank))


def rank_by_form(page: Page, ranks: Ranks) -> None:
    """Rank every answer with the numbers below it, which is all there is without JavaScript."""
    shown = letters(page)
    for text, rank in ranks.items():
        page.locator(f"input[name=rank_{shown[text]}][value='{rank}']").check(force=True)


def chosen(page: Page) -> dict[str, int]:
    """Return the ranks that the page has at this moment, by the answers' texts."""
    ranks = {}
    for text, letter in letters(page).items():
        picked = page.locator(f"input[name=rank_{letter}]:checked")
        if picked.count():
            ranks[text] = int(picked.input_value())
    return ranks


def submit_button(page: Page) -> Locator:
    """Return the button that sends the ranking or the written answer."""
    return page.locator("#task .submit")


def question(page: Page) -> Locator:
    """Return the place of the prompt."""
    return page.locator(".prompt")


def start_ranking(page: Page, title: str = "Rank the answers") -> None:
    """Go to the work page and take a ranking task, whose page has this title."""
    page.goto("/work")
    page.get_by_role("button", name="Start ranking").click()
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    page.wait_for_load_state()


def start_writing(page: Page) -> None:
    """Go to the work page and take a writing task.

    The page is there before its scripts are, and what is sent in between goes the way without JavaScript; hence the
    wait, here and in `start_ranking`.
    """
    page.goto("/work")
    page.get_by_role("button", name="Start writing").click()
    expect(page.get_by_label("Your answer")).to_be_visible()
    page.wait_for_load_state()


def _middle(place: Locator) -> tuple[float, float]:
    box = place.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def wait_until(page: Page, condition: str) -> None:
    """Wait until a JavaScript expression is true, looked at with every frame, for 15 seconds at most.

    Playwright's own wait evaluates the text in the page each time, which our content security policy forbids.
    """
    page.evaluate(
        f"""() => new Promise((resolve, reject) => {{
          const began = performance.now();
          const look = () => {{
            if ({condition}) resolve();
            else if (performance.now() - began > 15000) reject(new Error("it never became true"));
            else requestAnimationFrame(look);
          }};
          look();
        }})"""
    )
