"""The trainer as a child process: in its own session, dead when its supervisor dies, alone in its run directory.

A lock file in the run directory is held by the child itself, so it is free exactly when the child is gone. A later
attempt that finds it taken (its supervisor had stopped, the child had not) ends the old child first. The file also
names the attempt's fence, so that a supervisor that was itself held up never ends the child of a later attempt.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from app.settings import get_settings

PR_SET_PDEATHSIG = 1
LOCK_FILE = "lock"
LOG_FILE = "log.txt"
UNLOCK_SECONDS = 10.0
# The trainer needs neither the database nor the broker, so it is not told how to reach them.
HIDDEN = ("DATABASE_URL", "REDIS_URL", "PLACKETT_")

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class FolderBusyError(OSError):
    """Another process works in this run directory and could not be ended."""


class NewerAttemptError(RuntimeError):
    """A later attempt has been at work in this run directory, so this one's lease is lost."""


class Training(Protocol):
    """What the supervisor needs of a training, wherever it runs: poll it, signal it, know how it ended.

    Its results lie in the run directory by the time it has ended.
    """

    @property
    def pid(self) -> int | None:
        """Process id, if it is one of this machine."""

    def wait(self, seconds: float) -> int | None:
        """Wait at most so long for the end and return the exit status, None if it still runs."""

    def ask_to_stop(self) -> None:
        """Ask for a checkpoint and an end with 3."""

    def kill(self) -> None:
        """End it at once, with all that belongs to it; harmless when it has ended."""


class Child:
    """A started trainer. `code` is its exit status, negative for a signal, None while it runs.

    Raises `FolderBusyError` or `NewerAttemptError` when the run directory belongs to another.
    """

    def __init__(self, command: Sequence[str], run_dir: Path, fence: int) -> None:
        with _locked(run_dir / LOCK_FILE, fence) as lock, (run_dir / LOG_FILE).open("ab") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=trainer_environment(),
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 # only calls prctl, loaded before the fork
            )
            lock.seek(0)
            lock.truncate()
            lock.write(f"{self._process.pid} {fence}")
            lock.flush()

    @property
    def pid(self) -> int:
        """Process id, which is also its group's."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit status if the child has ended."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Wait at most so long for the end and return the exit status, None if it still runs."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_stop(self) -> None:
        """Send SIGTERM: the trainer saves a checkpoint and exits with 3."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the child and its own children, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, number)


def trainer_environment() -> dict[str, str]:
    """Return this process's environment without what the trainer need not know."""
    hidden = (*HIDDEN, *(one.api_key_env for one in get_settings().endpoints.values() if one.api_key_env))
    known = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    return known | {"PYTHONUNBUFFERED": "1"}


def die_with_parent(parent: int) -> Callable[[], None]:
    """Return what the child runs before the trainer: ask Linux for SIGKILL when the supervisor's process ends."""

    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before the request was in place
                os._exit(1)

    return prepare


def _locked(path: Path, fence: int) -> IO[str]:
    """Return the lock file, locked; end the process that holds it if an earlier attempt left one behind."""
    file = path.open("a+", encoding="ascii")
    try:
        _take(file, path.parent, fence)
    except BaseException:
        file.close()
        raise
    return file


def _take(file: IO[str], folder: Path, fence: int) -> None:
    deadline = time.monotonic() + UNLOCK_SECONDS
    while True:
        free = _try_lock(file)
        file.seek(0)
        pid, _, newest = file.read().strip().partition(" ")
        if newest.isdigit() and int(newest) > fence:
            raise NewerAttemptError(f"a later attempt has worked in {folder}")
        if free:
            return
        if time.monotonic() > deadline:
            raise FolderBusyError(f"another process still works in {folder}")
        if pid.isdigit():
            _kill_group(int(pid))
        time.sleep(0.05)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended between our look and our signal, which is what we wanted
