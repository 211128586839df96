"""What a load balancer, an operator or Prometheus asks: is the process alive, can it serve, and how is it going."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Depends, Request, Response

from app import latency
from app.auth import guard
from app.db import SessionDep
from app.errors import ForbiddenError, NotFoundError
from app.services import figures, health
from app.settings import get_settings

router = APIRouter(include_in_schema=False)


@router.get("/livez")
def livez() -> dict[str, str]:
    """Answer as long as the process runs; looks at nothing else, so a database outage restarts no web process."""
    return {"status": "alive"}


@router.get("/readyz")
def readyz(response: Response) -> dict[str, object]:
    """Answer 200 when labelers can work: Postgres answers, is migrated and keeps what it confirms.

    Redis only rings the workers' bell; without it the answer is 200 and "degraded".
    """
    report = health.check()
    response.status_code = 200 if report.ready else 503
    return {"status": report.status, "checks": dict(report.checks)}


@guard
def knows_the_metrics_token(request: Request) -> None:
    """Let pass who sends the operator's token. Not who comes from this machine: so does all that a proxy passes on."""
    token = get_settings().metrics_token
    if token is None:
        raise NotFoundError("Figures are not served here: set PLACKETT_METRICS_TOKEN first.")
    sent = request.headers.get("authorization", "")
    if not hmac.compare_digest(sent.encode(), f"Bearer {token.get_secret_value()}".encode()):
        raise ForbiddenError("Send the operator's token: Authorization: Bearer ….")


@router.get("/metrics", dependencies=[Depends(knows_the_metrics_token)])
def metrics(session: SessionDep) -> Response:
    """Answer Prometheus; every web process of a host gives the same figures."""
    return Response(figures.exposition(figures.gauges(session), latency.submits()), media_type=figures.CONTENT_TYPE)
