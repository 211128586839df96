"""One child process with a log file: in its own session, stopped by its own signal, killed only as a last resort."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.errors import SetupError

LOG_BYTES = 10 << 20
TELLING = ("FATAL", "Error", "ERROR", '"level": "error"', '"level": "critical"')


class ChildProcess:
    """A program we run.

    It gets its own session, so that Ctrl-C in the terminal reaches only us and we stop the children in order.
    `command` already carries its prefix from `identity`; `descriptors` stay open in the child.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_seconds: float = 20.0,
        working_folder: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.stop_signal = stop_signal
        self.stop_seconds = stop_seconds
        self._environment = dict(environment)
        self._working_folder = working_folder
        self._descriptors = tuple(descriptors)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it prints goes to the end of its log, which is turned over once it is large."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._working_folder,
                pass_fds=self._descriptors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs (or was never started); negative for the signal that ended it."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; return whether it has ended."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_for(self, probe: Callable[[], object], unready: type[Exception], seconds: float, called: str) -> None:
        """Probe until it no longer raises `unready`; if it ends before or takes longer, stop it, raise SetupError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                probe()
            except unready as error:
                if not self.running or time.monotonic() > deadline:
                    self.stop()
                    said = self.last_words() or str(error)
                    raise SetupError(f"{called} did not start ({said}): see {self.log}.") from None
                self.wait(0.03)
            else:
                return

    def ask_to_stop(self) -> None:
        """Send its stop signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.stop_signal)

    def stop(self) -> bool:
        """Stop it and wait; return False if it had to be killed."""
        self.ask_to_stop()
        return self.wait_or_kill()

    def wait_or_kill(self) -> bool:
        """Wait for the end that was asked for; return False if it (with its process group) had to be killed."""
        gentle = self.wait(self.stop_seconds)
        if not gentle:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.wait(10)
        return gentle

    def last_words(self) -> str:
        """Return the last line of the log that says something, for the sentence that reports its end."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 8192))
                lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
        except OSError:
            return ""
        telling = [line for line in lines if any(word in line for word in TELLING)]
        return _told((telling or [line for line in lines if line] or [""])[-1])[-300:]


def _told(line: str) -> str:
    """Return what a line says, be it one of ours in JSON or anybody's text."""
    try:
        event = json.loads(line)
        last = str(event.get("traceback", "")).strip().rpartition("\n")[2]
        return last or str(event["event"])
    except (ValueError, KeyError, AttributeError):
        return line
