"""The frame of every page in a real browser: the menu, questions before dangerous steps, failures, the server's log."""

from __future__ import annotations

import pytest
from playwright.sync_api import Dialog, Page, expect

from app.models import User

from .chromium import Watch
from .conftest import PASSWORD, MakeUser, OpenPage, WebServer


@pytest.fixture
def admin(make_user: MakeUser) -> User:
    return make_user("admin", "Ada Okafor")


@pytest.mark.parametrize("javascript", [True, False])
def test_on_a_phone_the_menu_leads_everywhere_with_and_without_javascript(
    admin: User, open_page: OpenPage, javascript: bool
) -> None:
    page = open_page(admin, width=390, height=844, javascript=javascript)
    page.goto("/account")
    link = page.get_by_role("navigation", name="Main, small screens").get_by_role("link", name="People")
    expect(link).to_be_hidden()
    page.get_by_text("Ada Okafor").first.click()
    link.click()
    expect(page).to_have_title("People · Plackett")
    page.get_by_text("Ada Okafor").first.click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_have_text("You are signed out.")


def test_the_keyboard_skips_to_the_content_and_closes_the_menu(admin: User, open_page: OpenPage) -> None:
    page = open_page(admin)
    page.goto("/people")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    menu = page.locator("details.menu")
    menu.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(menu).to_have_attribute("open", "")
    page.keyboard.press("Escape")
    expect(menu).not_to_have_attribute("open", "")
    expect(menu.locator("summary")).to_be_focused()


def _answer(page: Page, *, accept: bool) -> list[str]:
    asked: list[str] = []

    def on_dialog(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept() if accept else dialog.dismiss()

    page.once("dialog", on_dialog)
    return asked


def test_a_dangerous_step_is_asked_about_and_no_means_no(
    admin: User, make_user: MakeUser, open_page: OpenPage, watch: Watch
) -> None:
    make_user("labeler", "Kim Lee")
    page = open_page(admin)
    page.goto("/people")
    row = page.get_by_role("row").filter(has_text="Kim Lee")
    watch.clear()
    asked = _answer(page, accept=False)
    row.get_by_role("button", name="Disable").click()
    assert asked == ["Disable Kim Lee? They are signed out at once; their work stays."]
    assert watch.sent == []
    _answer(page, accept=True)
    row.get_by_role("button", name="Disable").click()
    expect(page.get_by_role("status")).to_have_text("The account is disabled and signed out everywhere.")


def test_a_failed_fragment_says_so_and_leaves_what_was_typed(admin: User, open_page: OpenPage, watch: Watch) -> None:
    watch.expect("404")
    watch.expect("Response Status Error Code 404")
    page = open_page(admin)
    page.goto("/people")
    page.get_by_label("E-mail address").fill("half-typed@")
    page.evaluate("htmx.ajax('GET', '/nowhere', {target: '#main', swap: 'innerHTML'})")
    expect(page.locator("#alerts")).to_contain_text("There is nothing at this address.")
    expect(page.get_by_label("E-mail address")).to_have_value("half-typed@")


def test_the_servers_log_names_routes_and_not_the_secrets_in_them(
    open_page: OpenPage, watch: Watch, web_server: WebServer
) -> None:
    watch.expect("410")
    page = open_page()
    page.goto("/invite/the-secret-of-somebody")
    expect(page.get_by_role("heading", name="Gone")).to_be_visible()
    log = (web_server.var.parent / "web.log").read_text()
    assert "GET /invite/{token} 410" in log
    assert "the-secret-of-somebody" not in log


def test_scripts_see_nothing_of_a_sign_in(admin: User, open_page: OpenPage) -> None:
    page = open_page()
    page.goto("/sign-in?next=/people")
    page.get_by_label("E-mail address").fill(admin.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_title("People · Plackett")
    assert len(page.context.cookies()) == 1
    assert page.evaluate("document.cookie") == ""
    # htmx keeps the path of the page, and nothing of its content.
    stored = page.evaluate("({...localStorage, ...sessionStorage})")
    assert stored in ({}, {"htmx-current-path-for-history": "/people"})
