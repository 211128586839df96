"""A run's files as pages read them: only names that the code asks for, and only where this machine has them.

A run that works on another machine has its folder there; what pages need of it while it works comes with heartbeats.
"""

from __future__ import annotations

from pathlib import Path

from app.models import Run
from app.settings import get_settings


def folder(run: Run) -> Path:
    """Return where the run's directory is on this machine, if it is here."""
    return get_settings().runs_dir / str(run.id)


def find(run: Run, name: str) -> Path | None:
    """Return the path of one of the run's files, None when it is not here (yet)."""
    path = folder(run) / name
    return path if path.is_file() else None


def plots(run: Run) -> list[str]:
    """Return the names of the plots in the report of a run that has succeeded."""
    if run.state != "succeeded":
        return []
    return sorted(path.name for path in (folder(run) / "plots").glob("*.svg"))
