"""The demo's accounts: one admin, three simulated labelers, and an invitation for the person who looks on.

Their passwords are random and lie in `demo.json` in the demo's folder, readable by its owner alone, so that a second
demo in the same folder can sign in again. Invitations are made here rather than through the form of people, because no
form makes simulated accounts; they are redeemed through the page, like any other.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from app import db
from app.demo.browser import Browser
from app.demo.labelers import Worker
from app.demo.preference import LABELERS, SimulatedLabeler
from app.embedded.folder import write_private
from app.errors import SetupError
from app.models import User
from app.services.accounts import accounts

ADMIN_EMAIL = "admin@demo.example"
ADMIN_NAME = "Demo admin"
GUEST_EMAIL = "you-{number}@demo.example"
ABOUT = "The accounts of `plackett demo`. This file marks its folder."


@dataclass(frozen=True)
class Account:
    """An address with its password."""

    email: str
    password: str


def email_of(labeler: SimulatedLabeler) -> str:
    """Return the address of a simulated labeler's account."""
    return f"{labeler.name.split()[-1].lower()}@simulated.example"


def open_admin(marker: Path, address: str) -> tuple[Account, Browser]:
    """Return the admin's account, made on the first call, and a browser signed in with it."""
    account = Account(ADMIN_EMAIL, _password(marker, ADMIN_EMAIL))
    if not _exists(ADMIN_EMAIL):
        with db.transaction() as session:
            accounts.create_admin(session, account.email, ADMIN_NAME, account.password)
    return account, sign_in(account, address)


def open_workers(marker: Path, address: str) -> list[Worker]:
    """Return the simulated labelers, each signed in; on the first call they redeem their invitations."""
    workers = []
    for labeler in LABELERS:
        email = email_of(labeler)
        account = Account(email, _password(marker, email))
        if _exists(email):
            browser = sign_in(account, address)
        else:
            browser = _redeem(_invite(email, is_simulated=True), labeler.name, account, address)
        workers.append(Worker(labeler, browser))
    return workers


def invite_guest(address: str) -> str:
    """Return the link of a new invitation for a person, a labeler: it works once."""
    with db.transaction() as session:
        taken = set(session.scalars(select(User.email).where(User.email.like("you-%@demo.example"))))
    number = next(n for n in range(1, len(taken) + 2) if GUEST_EMAIL.format(number=n) not in taken)
    return f"{address}/invite/{_invite(GUEST_EMAIL.format(number=number), is_simulated=False)}"


def sign_in(account: Account, address: str) -> Browser:
    """Return a browser that has signed in."""
    browser = Browser(address)
    browser.open("/sign-in")
    browser.submit(browser.form("/sign-in"), {"email": account.email, "password": account.password})
    return browser


def _invite(email: str, *, is_simulated: bool) -> str:
    with db.transaction() as session:
        admin = session.scalars(select(User).where(User.email == ADMIN_EMAIL)).one()
        token, _ = accounts.invite(session, admin, email, "labeler", is_simulated=is_simulated)
    return token


def _redeem(token: str, name: str, account: Account, address: str) -> Browser:
    browser = Browser(address)
    path = f"/invite/{token}"
    browser.open(path)
    browser.submit(browser.form(path), {"name": name, "password": account.password})
    return browser


def _exists(email: str) -> bool:
    with db.transaction() as session:
        return session.scalar(select(User.id).where(User.email == email)) is not None


def mark(marker: Path) -> None:
    """Make the file of accounts, still without any, where there is none: it also says whose folder this is."""
    if not marker.exists():
        _write(marker, {})


def _password(marker: Path, email: str) -> str:
    """Return the account's password; a new one is written down before there is an account that needs it."""
    try:
        known: dict[str, str] = json.loads(marker.read_text(encoding="utf-8"))["passwords"]
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{marker} cannot be read ({error!r}); start again with --fresh.") from None
    if email not in known:
        known[email] = secrets.token_urlsafe(18)
        _write(marker, known)
    return known[email]


def _write(marker: Path, known: dict[str, str]) -> None:
    write_private(marker, json.dumps({"about": ABOUT, "passwords": known}, indent=1) + "\n")
