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
    # Ours and the processes' are one group, so they hear what is meant for the training; we only pass on its end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
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
        failed = next((code for code in codes if code not in (None, 0)), None)
        if failed is not None:
            _end(children, patience=5.0)  # the others say the same soon, or wait for one that is gone
            return failed if failed > 0 else 128 - failed
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
