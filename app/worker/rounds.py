"""The part of a tick that starts rounds and carries them on, each in its own transaction: none holds up the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import UUID

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.db import transaction
from app.errors import PlackettError
from app.services.training import occurrences, pipelines

logger = logging.getLogger(__name__)

OUTAGES = (OperationalError, InterfaceError, PoolTimeoutError)


def look() -> None:
    """Settle the due times of every schedule, then carry every running pipeline on as far as it goes just now."""
    with transaction() as session:
        due = occurrences.due(session)
    _each("schedule", due, _settle)
    with transaction() as session:
        waiting = pipelines.running(session)
    _each("pipeline", waiting, _carry_on)


def _each(what: str, ids: list[UUID], do: Callable[[UUID], None]) -> None:
    for row_id in ids:
        try:
            do(row_id)
        except OUTAGES as error:
            # Nothing was stored, and the next tick is soon.
            logger.warning("%s %s waits for Postgres, %s", what, row_id, type(error).__name__)
        except Exception:  # the others go on all the same
            logger.exception("%s %s could not be looked at", what, row_id)


def _settle(schedule_id: UUID) -> None:
    with transaction() as session:
        occurrences.settle(session, schedule_id)


def _carry_on(pipeline_id: UUID) -> None:
    try:
        while _step(pipeline_id):
            pass
    except OUTAGES:
        raise
    except PlackettError as error:
        _break_off(pipeline_id, error.message)
    except OSError as error:
        _break_off(pipeline_id, f"A file or folder cannot be used: {error}.")
    except Exception:  # what we did not foresee is stored as the stage's end, or it would be tried for ever
        logger.exception("pipeline %s could not be carried on", pipeline_id)
        _break_off(pipeline_id, "Something unexpected went wrong. The worker's log says what.")


def _step(pipeline_id: UUID) -> bool:
    with transaction() as session:
        return pipelines.step(session, pipeline_id)


def _break_off(pipeline_id: UUID, reason: str) -> None:
    with transaction() as session:
        pipelines.break_off(session, pipeline_id, reason)
