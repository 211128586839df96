"""What a GPU worker offers, as the driver's tool tells it; the tool is a stand-in, because few machines have a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.models import Worker
from app.services.training import devices, workers
from app.settings import get_settings

Driver = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Puts an `nvidia-smi` first on PATH that lists these names; sets what else the worker's environment says."""

    def install(*names: str, **environment: str) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\n" + ("".join(f"echo '{name}'\n" for name in names) or "exit 9\n"))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setenv("PLACKETT_TRAINER_DEVICE", "auto")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        devices._installed.cache_clear()
        get_settings.cache_clear()

    return install


@pytest.mark.parametrize(
    ("names", "environment", "count", "words"),
    [
        ((), {}, 1, "auto"),
        (("H100", "H100", "A100"), {}, 3, "2 x H100, 1 x A100"),
        (("H100", "H100", "A100"), {"CUDA_VISIBLE_DEVICES": "0,2"}, 2, "1 x H100, 1 x A100"),
        (("H100", "H100"), {"CUDA_VISIBLE_DEVICES": "1,7,0"}, 1, "1 x H100"),
        (("H100", "H100"), {"CUDA_VISIBLE_DEVICES": ""}, 1, "auto"),
        (("H100", "H100"), {"PLACKETT_TRAINER_DEVICE": "cpu"}, 1, "cpu"),
        ((), {"PLACKETT_TRAINER_DEVICE": "cpu", "PLACKETT_GPUS": "2"}, 2, "cpu"),
    ],
)
def test_a_worker_offers_the_devices_that_its_trainer_will_see(
    driver: Driver, names: tuple[str, ...], environment: dict[str, str], count: int, words: str
) -> None:
    driver(*names, **environment)
    assert (devices.count(), devices.describe()) == (count, words)
    devices._installed.cache_clear()


def test_a_page_can_tell_whether_any_worker_fits(driver: Driver, session: Session) -> None:
    driver("H100", "H100")
    workers.seen(session, "host:1")
    workers.seen(session, "host:1")
    assert (session.get_one(Worker, "host:1").gpus, session.get_one(Worker, "host:1").devices) == (2, "2 x H100")
    assert workers.any_recent(session, gpus=2)
    assert not workers.any_recent(session, gpus=3)
    devices._installed.cache_clear()
