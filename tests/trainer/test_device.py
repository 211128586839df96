"""What a run says of the memory it takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trainer.device import process_peak_mb

CHILD = "from trainer.device import process_peak_mb; print(process_peak_mb())"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells a process from its parent")
def test_the_memory_of_a_run_is_not_that_of_the_process_that_started_it():
    held = b"x" * (500 * 2**20)
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    here = process_peak_mb()
    assert 50 < float(told) < 500 < here
    del held
