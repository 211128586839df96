"""The data folder (VAR): one stack at a time, private folders, secrets, and what a killed stack has left running."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from app.errors import SetupError

# The kernel's sun_path holds 108 bytes, the last of them a zero.
SOCKET_PATH_BYTES = 107
FREE_BYTES_NEEDED = 300 << 20  # a fresh cluster with its first write-ahead log takes about 60 MiB


def make_private(path: Path, *, passable: bool = False) -> Path:
    """Make a folder that is ours alone; `passable` lets other users through to what is theirs inside, not list it."""
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o711 if passable else 0o700)
    return path


def make_var(var: Path) -> Path:
    """Make the data folder; return its absolute path. As root, the servers' user must be able to pass through."""
    var = var.absolute()
    try:
        make_private(var, passable=os.geteuid() == 0)
        make_private(var / "run", passable=os.geteuid() == 0)
        make_private(var / "log")
    except OSError as error:
        raise SetupError(
            f"The data folder {var} cannot be made ({error.strerror}): choose another with --var."
        ) from None
    return var


def require_free_space(path: Path, needed: int = FREE_BYTES_NEEDED) -> None:
    """Raise SetupError unless `needed` bytes are free where `path` is."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise SetupError(
            f"Only {free >> 20} MiB are free where {path} is, and {needed >> 20} MiB are needed: "
            "free some space, or choose another folder with --var."
        )


def read_or_make_secret(path: Path) -> str:
    """Return the random secret kept in `path` (mode 0600); make it on first use."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        secret = secrets.token_urlsafe(32)
        write_private(path, secret + "\n")
        return secret


@contextlib.contextmanager
def socket_folder(preferred: Path, socket_name: str) -> Iterator[Path]:
    """Yield a private folder for a Unix socket: `preferred`, or a temporary one where that path would be too long."""
    if len(os.fsencode(preferred / socket_name)) <= SOCKET_PATH_BYTES:
        yield make_private(preferred)
    else:
        with tempfile.TemporaryDirectory(prefix="plackett-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)


@contextlib.contextmanager
def exclusive(var: Path) -> Iterator[None]:
    """Hold the data folder for this process; raise SetupError if another process holds it.

    The kernel drops the lock with its holder, so no stale lock can remain. Only starting needs the lock: what a
    running stack tells other commands stands in `run/stack.json`.
    """
    with (var / "run" / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise SetupError(
                f"Another Plackett (process {holder}) is running on {var}: stop it first, or choose another folder "
                "with --var."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def write_private(path: Path, content: str) -> None:
    """Write a file of mode 0600, complete or not at all."""
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    aside.replace(path)


def process_start(pid: int) -> str | None:
    """Return the kernel's start time of a process, which tells it from a later one with the same id; None if gone.

    Linux only (/proc); elsewhere None, so that left-over processes are never touched there.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_held(var: Path) -> bool:
    """Return whether some process holds the data folder now."""
    try:
        with (var / "run" / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


class ProcessRecord:
    """`run/processes.json`: the processes this stack has started, so that the next start can end what is left."""

    def __init__(self, var: Path) -> None:
        self._path = var / "run" / "processes.json"
        self._entries: dict[str, tuple[int, str]] = {}

    def add(self, name: str, pid: int) -> None:
        """Remember a process under its name; a restart replaces it."""
        self._entries[name] = (pid, process_start(pid) or "")
        self._write()

    def clear(self) -> None:
        """Forget all: they have been stopped."""
        self._entries.clear()
        self._write()

    def end_left_over(self, seconds: float = 30.0) -> list[str]:
        """End the processes of an earlier stack that are still alive, and return their names.

        They got a signal when their parent died and are usually on their way out: so wait, ask once more, then kill.
        """
        try:
            entries = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):  # ValueError: killed in the middle of writing
            return []
        alive = {name: pid for name, (pid, start) in entries.items() if start and process_start(pid) == start}
        for stop_signal in (None, signal.SIGTERM, signal.SIGKILL):
            waiting = [pid for name, pid in alive.items() if process_start(pid) == entries[name][1]]
            for pid in waiting:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, stop_signal or 0)
            deadline = time.monotonic() + seconds / 3
            while waiting and time.monotonic() < deadline:
                time.sleep(0.05)
                waiting = [pid for name, pid in alive.items() if process_start(pid) == entries[name][1]]
            if not waiting:
                break
        return sorted(alive)

    def _write(self) -> None:
        write_private(self._path, json.dumps(self._entries))
