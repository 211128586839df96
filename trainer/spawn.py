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

from trainer.records import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_NO_SPACE, EXIT_STOPPED

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.1

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def main(arguments: Sequence[str]) -> int:
    """Start the processes and return their exit code, or that of the one that failed."""
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
        failed = cause(codes)
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
        if None not in codes:
            return max(code or 0 for code in codes)  # done, or stopped: then the first one had a checkpoint to save
        time.sleep(POLL_SECONDS)


def cause(codes: Sequence[int | None]) -> int | None:
    """Return the code of the process that the others failed by; None while none has failed.

    A word of the training's own comes first. Without one, who was killed took the others down by being gone. To have
    stopped on request is no failure.
    """
    failed = [code for code in codes if code not in (None, 0, EXIT_STOPPED)]
    own = [code for code in failed if code in (EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_NO_SPACE)]
    killed = [code for code in failed if code is not None and code < 0]
    return next(iter([*own, *killed, *failed]), None)


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
