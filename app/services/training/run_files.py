"""A run's files as pages read them: only names that the code asks for, from here or from the artifact store.

A run that works on another machine has its folder there; what pages need of it while it works comes with heartbeats.
Once it has succeeded, the files that people look at lie in the store, if there is one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from app.errors import ConflictError, NotFoundError, UnavailableError
from app.models import Run
from app.services.training import artifacts
from app.settings import get_settings
from trainer.jsonl import RecordError

SHOWN = ("report.*", "plots/*.svg", "metrics.jsonl", "rollouts.jsonl", "data/prompts.jsonl", "events.out.tfevents.*")
FETCH_SECONDS = 3.0
"""How long a page waits for files that come from the store; they come all the same, for the next look."""


def folder(run: Run) -> Path:
    """Return where the run's directory is on this machine, if it is here."""
    return get_settings().runs_dir / str(run.id)


def publish(folder: Path) -> str | None:
    """Send what people look at of a finished run to the store, and return its address; None without a store."""
    if get_settings().artifacts is None:
        return None
    found = _shown(folder)
    return artifacts.publish_files(folder, found) if found else None


def bring(run: Run, target: Path) -> None:
    """Copy what people look at of a run to a new folder, from this machine or from the store.

    Raises `ConflictError` when the folder is there already, `NotFoundError` when only another machine has the files,
    `UnavailableError` when the store does not give them.
    """
    if target.exists():
        raise ConflictError(f"{target} exists already; name a folder that is to be made.")
    here = folder(run)
    if (here / "report.json").is_file():
        for path in _shown(here):
            copy = target / path.relative_to(here)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    elif run.files_uri is None:
        raise NotFoundError("This machine does not have the files of this run, and they are in no artifact store.")
    else:
        try:
            artifacts.bring(run.files_uri, target)
        except (RecordError, OSError) as error:
            raise UnavailableError(f"The files of this run cannot be had: {error}") from None


def find(run: Run, name: str) -> Path | None:
    """Return the path of one of the run's files, None when it is not here (yet)."""
    here = folder(run) / name
    if here.is_file():
        return here
    stored = _stored(run)
    return stored / name if stored is not None and (stored / name).is_file() else None


def plots(run: Run) -> list[str]:
    """Return the names of the plots in the report of a run that has succeeded."""
    if run.state != "succeeded":
        return []
    here = folder(run)
    # A host on which only an earlier attempt worked has no report.
    root = here if (here / "report.json").is_file() else _stored(run)
    return sorted(path.name for path in (root / "plots").glob("*.svg")) if root is not None else []


def _shown(folder: Path) -> list[Path]:
    return [path for pattern in SHOWN for path in folder.glob(pattern)]


def _stored(run: Run) -> Path | None:
    return artifacts.local_within(run.files_uri, FETCH_SECONDS) if run.files_uri is not None else None
