"""The heartbeat of one attempt, beside its supervisor's loop: a database that does not answer must not hold that up.

The lease is counted on our own monotonic clock from before each heartbeat that went through, less a margin. Once
`is_safe` says no, another worker may soon have the run, so the trainer must be gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.db import transaction
from app.services.training import run_states, workers
from app.services.training.run_states import Beat, Lease
from app.settings import Settings
from app.worker.errand import Errand

logger = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
SAFETY_SECONDS = 10.0
OUTAGES = (OperationalError, InterfaceError, InternalError, PoolTimeoutError)
"""What SQLAlchemy raises when Postgres is away, starting, stopping or too slow: the same again later may go through."""


class Pulse:
    """Beats while `look` is called often. `cancel_asked` is what the last heartbeat brought back.

    `collect` returns what to tell; `bring_back` gets it again when it did not arrive. The claim, at `claimed`, was the
    first heartbeat.
    """

    def __init__(
        self,
        lease: Lease,
        worker: str,
        settings: Settings,
        claimed: float,
        collect: Callable[[], Beat],
        bring_back: Callable[[Beat], None],
    ) -> None:
        self.cancel_asked = False
        self._lease = lease
        self._worker = worker
        self._seconds = settings.run_lease_seconds
        self._calm = settings.run_heartbeat_seconds
        self._collect = collect
        self._bring_back = bring_back
        self._began = self._last = claimed
        self._sent = Beat()
        self._errand: Errand[bool | None] | None = None

    @property
    def is_safe(self) -> bool:
        """Whether the lease, as far as we know, still has some time to go."""
        return time.monotonic() < self._last + self._seconds - min(SAFETY_SECONDS, self._seconds / 6)

    def look(self, *, news: bool) -> None:
        """Start a heartbeat when one is due, or take in the one that has come back. Never waits.

        Raises `LostLeaseError` when the run is another's now.
        """
        now = time.monotonic()
        if self._errand is not None:
            if not self._errand.is_alive():
                self._take_in(self._errand)
                self._errand = None
        # News is brought in at a brisk pace; without any, the lease alone sets it.
        elif now - self._began >= (min(FRESH_SECONDS, self._calm) if news else self._calm):
            self._began, self._sent = now, self._collect()
            self._errand = Errand(self._beat)

    def end(self) -> None:
        """Wait for a heartbeat that is under way, so that no other write of ours overtakes it."""
        if self._errand is not None:
            self._take_in(self._errand)
            self._errand = None

    def _take_in(self, errand: Errand[bool | None]) -> None:
        asked = errand.settle()
        if asked is None:
            self._bring_back(self._sent)
        else:
            self.cancel_asked, self._last = asked, self._began

    def _beat(self) -> bool | None:
        """Renew the lease and return whether a cancel is asked for; None when nobody answers."""
        try:
            with transaction() as session:
                asked = run_states.heartbeat(session, self._lease, self._seconds, self._sent)
                workers.seen(session, self._worker)
        except OUTAGES as error:
            logger.warning("run %s: no heartbeat, %s", self._lease.run_id, type(error).__name__)
            return None
        return asked
