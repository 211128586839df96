"""Errors that a person reads: each carries its HTTP status and a sentence that names the remedy."""

from __future__ import annotations

from http import HTTPStatus


class PlackettError(Exception):
    """Base of all expected errors. `str(error)` is one clear sentence; `status` is the HTTP status it answers with."""

    status: HTTPStatus = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInputError(PlackettError):
    """What was sent cannot be accepted as it is (422). `details` lists further lines, e.g. one per bad input line."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details


class NotSignedInError(PlackettError):
    """Nobody is signed in, or the session has ended (401)."""

    status = HTTPStatus.UNAUTHORIZED


class ForbiddenError(PlackettError):
    """The person is known and may not do this (403)."""

    status = HTTPStatus.FORBIDDEN


class StaleFormError(ForbiddenError):
    """A form of ours carries the token of a session that has ended since, and another one is open (403)."""


class NotFoundError(PlackettError):
    """The object does not exist, or the person may not know that it does (404)."""

    status = HTTPStatus.NOT_FOUND


class ConflictError(PlackettError):
    """The request collides with the present state (409)."""

    status = HTTPStatus.CONFLICT


class GoneError(PlackettError):
    """The object existed and has ended, such as an expired invitation (410)."""

    status = HTTPStatus.GONE


class TooLargeError(PlackettError):
    """The body is larger than allowed (413)."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class WrongMediaError(PlackettError):
    """The body is of a kind that is not taken here (415)."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class ChangedError(PlackettError):
    """What was to be changed is not any more what the caller has read (412)."""

    status = HTTPStatus.PRECONDITION_FAILED


class UnconditionalError(PlackettError):
    """A change must say what it is a change of (428)."""

    status = HTTPStatus.PRECONDITION_REQUIRED


class TooManyAttemptsError(PlackettError):
    """Throttled (429). `retry_after` is in seconds."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(PlackettError):
    """A part we need, such as Postgres, does not answer (503). Nothing was stored; trying again is safe."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class SetupError(PlackettError):
    """This machine or its settings are not fit to start (command line only)."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
