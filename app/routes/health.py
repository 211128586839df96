"""What a load balancer or an operator asks: is the process alive, and can it serve."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.services import health

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
