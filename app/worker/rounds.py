"""The part of a tick that carries pipelines on: each step in its own transaction, so that none holds up the others."""

from __future__ import annotations

import logging
from uuid import UUID

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.db import transaction
from app.errors import PlackettError
from app.services.training import pipelines

logger = logging.getLogger(__name__)

OUTAGES = (OperationalError, InterfaceError, PoolTimeoutError)


def carry_on() -> None:
    """Carry every running pipeline on as far as it goes just now."""
    with transaction() as session:
        waiting = pipelines.running(session)
    for pipeline_id in waiting:
        try:
            _carry_on(pipeline_id)
        except OUTAGES as error:
            # Nothing was stored, and the next tick is soon.
            logger.warning("pipeline %s waits for Postgres, %s", pipeline_id, type(error).__name__)
        except Exception:  # its end could not be stored either; the others go on all the same
            logger.exception("pipeline %s can be neither carried on nor ended", pipeline_id)


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
