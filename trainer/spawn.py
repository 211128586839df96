"""Several processes of one training on this machine, each with a GPU of its own. Standard library only.

    python -m trainer.spawn PROCESSES METHOD --run DIR

The environment is torchrun's. What it adds is the contract of `python -m trainer`: SIGTERM reaches every process and
the exit code is the training's own, where torchrun ends with 1 for whatever went wrong.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.1

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def main(arguments: Sequence[str]) -> int:
    """Start the processes and return the first one's exit code, or that of the first that failed."""
    size, command = int(arguments[0]), [sys.executable, "-m", "trainer", *arguments[1:]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        """Tell the processes, who may have heard it as our group: twice asked to stop is once asked."""
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    for rank in range(size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        children.append(
            subprocess.Popen(command, env={**os.environ, **place, **meeting}, preexec_fn=_die_with_parent)  # noqa: PLW1509
        )
    return _wait(children)


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [child.poll() for child in children]
        # One that was killed takes the others down with it, so it is the cause of whatever they say.
        failed = min((code for code in codes if code not in (None, 0)), default=None)
        if failed is not None:
            # The others say the same soon, or wait for one that is gone.
            _end(children, patience=5.0 if failed > 0 else 0.0)
            if failed > 0:
                return failed
            name = signal.Signals(-failed).name
            print(
                f"Process {codes.index(failed) + 1} of {len(children)} was killed ({name}), so the training ends; "
                "the same command goes on from its last checkpoint.",
                file=sys.stderr,
                flush=True,
            )
            return 128 - failed
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_SECONDS)


def _end(children: list[subprocess.Popen[bytes]], patience: float) -> None:
    deadline = time.monotonic() + patience
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
