"""Sending the webhooks that are due, many at a time, with no transaction open while the others are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.db import transaction
from app.services.hooks import deliveries
from app.services.hooks.deliveries import Attempt
from app.services.hooks.sending import Outcome, send


def deliver() -> int:
    """Take what is due, send it, record what became of it, and return how many messages that were."""
    with transaction() as session:
        attempts = deliveries.take_due(session)
    if not attempts:
        return 0
    for attempt, outcome in zip(attempts, asyncio.run(_all(attempts)), strict=True):
        with transaction() as session:
            deliveries.record(session, attempt, outcome)
    return len(attempts)


async def _all(attempts: Sequence[Attempt]) -> list[Outcome]:
    return list(await asyncio.gather(*(send(attempt.message) for attempt in attempts)))
