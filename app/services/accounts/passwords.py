"""Passwords: argon2id at OWASP's minimum, at most two hashes at once, and the rule for what may be chosen.

Hashing is dear by design, so it is what an attacker would use to stall the server: two slots bound memory
(19 MiB each) and processor time, and `matches_waiting` waits for a slot without holding a thread or a connection.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import lru_cache

import anyio
from anyio.lowlevel import RunVar
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from app.errors import InvalidInputError

AT_ONCE = 2
MIN_LENGTH = {"labeler": 8, "reviewer": 15, "admin": 15}
MAX_LENGTH = 256

# OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_SLOTS = threading.BoundedSemaphore(AT_ONCE)
_LIMITER: RunVar[anyio.CapacityLimiter] = RunVar("password_limiter")

_OBVIOUS = tuple(
    """
    password passwort motdepasse contrasena letmein welcome willkommen iloveyou monkey dragon football baseball
    sunshine princess superman batman trustno master shadow michael jordan charlie secret changeme default login
    admin administrator root user test guest qwerty qwertz azerty asdfgh asdf zxcvbn qazwsx abc starwars pokemon
    hello computer internet freedom whatever summer winter spring autumn plackett labeler reviewer
    """.split()  # noqa: SIM905  (a list of words reads best as words)
)
_RUNS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azertyuiop")
_LOOKALIKES = str.maketrans("013457@$!", "oleastasi")


def hash_password(password: str) -> str:
    """Return the encoded argon2id hash; waits for a free slot."""
    with _SLOTS:
        return _HASHER.hash(_normal(password))


def matches(password_hash: str | None, password: str) -> bool:
    """Return whether the password fits. With no hash (no such user) the same work is done and the answer is False."""
    with _SLOTS:
        try:
            _HASHER.verify(password_hash or _nobodys_hash(), _normal(password))
        except (VerifyMismatchError, InvalidHashError):
            return False
    return password_hash is not None


async def matches_waiting(password_hash: str | None, password: str) -> bool:
    """Like `matches`, for an async caller: a crowd at the door waits here without using up the server's threads."""
    try:
        limiter = _LIMITER.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(AT_ONCE)
        _LIMITER.set(limiter)
    return await anyio.to_thread.run_sync(matches, password_hash, password, limiter=limiter)


def check_strength(password: str, role: str, *, email: str, name: str = "") -> None:
    """Raise InvalidInputError, naming the remedy, for a password that is too short, too long or easily guessed."""
    shortest = MIN_LENGTH[role]
    if len(password) < shortest:
        raise InvalidInputError(f"Choose a password of at least {shortest} characters. A short sentence works well.")
    if len(password) > MAX_LENGTH:
        raise InvalidInputError(f"Choose a password of at most {MAX_LENGTH} characters.")
    if _is_guessable(password, (email.partition("@")[0], *name.split())):
        raise InvalidInputError(
            "This password is among the first that others would try. Choose words that do not belong together."
        )


def _is_guessable(password: str, personal: tuple[str, ...]) -> bool:
    """Whether little remains once well-known words, runs of keys, the person's names and trimmings are taken out."""
    plain = _normal(password).lower()
    if len(set(plain)) < 4:
        return True
    # Once as typed and once with digits and signs read as the letters they imitate: "P4$$w0rd" is "password".
    return any(_remainder(variant, personal) < 4 for variant in (plain, plain.translate(_LOOKALIKES)))


def _remainder(text: str, personal: tuple[str, ...]) -> int:
    """Return how many letters and digits are left."""
    words = [*_OBVIOUS, *(word.lower() for word in personal if len(word) >= 3)]
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "")
    for run in _RUNS:
        for direction in (run, run[::-1]):
            for length in range(len(direction), 3, -1):
                for start in range(len(direction) - length + 1):
                    text = text.replace(direction[start : start + length], "")
    # A year, a number and an exclamation mark at either end are what everybody adds.
    text = re.sub(r"^[\W\d_]{1,6}|[\W\d_]{1,6}$", "", text)
    return sum(character.isalnum() for character in text)


def _normal(password: str) -> str:
    """Return one spelling for characters that keyboards compose differently (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


@lru_cache(maxsize=1)
def _nobodys_hash() -> str:
    return _HASHER.hash("the password of nobody")
