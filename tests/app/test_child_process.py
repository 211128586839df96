"""Waiting for a program of ours to answer: it dies first, it never answers, it answers late."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from app.embedded.process import ChildProcess
from app.errors import SetupError


def start(tmp_path: Path, code: str) -> ChildProcess:
    child = ChildProcess("part", [sys.executable, "-c", code], log=tmp_path / "part.log", environment=os.environ)
    child.start()
    return child


def refuses() -> None:
    raise ConnectionRefusedError("nobody is in")


def test_one_that_ends_before_it_answers_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = start(tmp_path, "import sys; sys.exit('FATAL: no room left')")
    with pytest.raises(SetupError, match=r"The part did not start \(FATAL: no room left\): see .*part\.log"):
        child.wait_for(refuses, ConnectionError, 30, "The part")


def test_one_that_runs_and_never_answers_is_stopped(tmp_path: Path) -> None:
    child = start(tmp_path, "import signal; signal.pause()")
    with pytest.raises(SetupError, match=r"The part did not start \(nobody is in\)"):
        child.wait_for(refuses, ConnectionError, 0.1, "The part")
    assert not child.running


def test_one_that_answers_late_is_waited_for_and_left_running(tmp_path: Path) -> None:
    child = start(
        tmp_path, "open('ready', 'w').close(); import signal; signal.pause()".replace("ready", str(tmp_path / "ready"))
    )
    child.wait_for((tmp_path / "ready").read_text, FileNotFoundError, 30, "The part")
    assert child.running
    assert child.stop()
