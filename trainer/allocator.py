"""What the C library does with memory that a step has freed: keep it for the next step. Standard library only.

A step frees what the next one asks for again, gigabytes of it. glibc by default gives large blocks back to the system
at once, and the end of its heap with them; the system hands out zeroed pages then, one fault after another, which took
up to a tenth of a training step's time. The price is that a process holds its peak until it ends, as a GPU's does.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
NEVER, LARGEST = -1, 2**31 - 1  # the latter is what fits the argument of mallopt


def keep_freed() -> bool:
    """Keep what is freed; False where the C library is another one, which stays as it is."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all((mallopt(M_MMAP_THRESHOLD, LARGEST), mallopt(M_TRIM_THRESHOLD, NEVER)))
