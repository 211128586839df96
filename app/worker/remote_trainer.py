"""The far end of a run on a cluster: one trainer process in a folder of its own, and that folder's bytes on request.

Runs inside an actor of the cluster's engine (see `app.worker.ray_child`). Standard library only; it knows neither the
database nor the engine.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from app.worker.child import LOG_FILE, die_with_parent, trainer_environment


class RemoteFile(NamedTuple):
    """A file in the far folder. Another inode under the same name is another file."""

    name: str
    size: int
    inode: int


class RemoteTrainer:
    """One process of a training. Its folder is gone with it; what is to stay has been fetched before."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="plackett-run-"))
        self._process: subprocess.Popen[bytes] | None = None

    def put(self, name: str, piece: bytes) -> None:
        """Append a piece to a file of the folder."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(piece)

    def meeting_place(self) -> tuple[str, int]:
        """Return an address of this machine and a port that is free, where the processes of a training meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return socket.gethostbyname(socket.gethostname()), int(probe.getsockname()[1])

    def start(self, trainer: tuple[str, ...], method: str, environment: dict[str, str]) -> None:
        """Start the trainer. It dies with this process, and this one with the actor."""
        command = [*(trainer or (sys.executable, "-m", "trainer")), method, "--run", str(self._folder)]
        with (self._folder / LOG_FILE).open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=trainer_environment() | environment,
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 # only calls prctl, loaded before the fork
            )

    def look(self) -> tuple[int | None, list[RemoteFile]]:
        """Return the exit status, None while it runs, and what lies in the folder."""
        code = self._process.poll() if self._process is not None else None
        files = []
        for path in sorted(self._folder.rglob("*")):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # the trainer tidies its checkpoints
            if path.is_file():
                files.append(RemoteFile(path.relative_to(self._folder).as_posix(), status.st_size, status.st_ino))
        return code, files

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return a piece of a file. Raises `FileNotFoundError` when it has gone meanwhile."""
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def ask_to_stop(self) -> None:
        """Send SIGTERM: the trainer saves a checkpoint and exits with 3."""
        self._signal(signal.SIGTERM)

    def end(self) -> None:
        """Kill what still runs and remove the folder."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)
