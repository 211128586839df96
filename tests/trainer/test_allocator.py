"""Memory that a step has freed serves the next one."""

import subprocess
import sys

import pytest

from trainer import allocator

STEPS = """
import ctypes, resource, sys
from trainer import allocator
if sys.argv[1] == "keep":
    assert allocator.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def step():
    blocks = [libc.malloc(2**23) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 2**23)
    for block in blocks:
        libc.free(block)

step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return the pages that the system had to hand out for a step of 64 MiB like two before it."""
    told = subprocess.run([sys.executable, "-c", STEPS, how], check=True, capture_output=True, text=True)
    return int(told.stdout)


@pytest.mark.skipif(not hasattr(allocator.ctypes.CDLL(None), "gnu_get_libc_version"), reason="for glibc alone")
def test_a_step_finds_the_memory_that_the_one_before_has_freed() -> None:
    assert faults("keep") < 100
    assert faults("as it is") > 100
