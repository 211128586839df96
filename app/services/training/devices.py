"""What a GPU worker offers: how many devices, and which. Asked of the driver's own tool, so torch is never imported."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import lru_cache

from app.settings import get_settings

QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def count() -> int:
    """Return how many devices one run may have here, at least 1: without a GPU that is the CPU."""
    settings = get_settings()
    if settings.gpus is not None:
        return settings.gpus
    return 1 if settings.trainer_device.startswith("cpu") else max(1, len(_visible()))


def describe() -> str:
    """Return the devices in words, such as `2 x NVIDIA H100` or `cpu`."""
    names = [] if get_settings().trainer_device.startswith("cpu") else _visible()
    if not names:
        return get_settings().trainer_device
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _visible() -> list[str]:
    """Return the names of the GPUs that a child of this process will see."""
    names, chosen = _installed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(names)
    # CUDA's rule: a list of numbers or UUIDs, which ends at the first that does not exist.
    wanted = [item.strip() for item in chosen.split(",") if item.strip()]
    visible = []
    for item in wanted:
        if (item.isdigit() and int(item) >= len(names)) or item == "-1":
            break
        visible.append(names[int(item)] if item.isdigit() else "GPU")
    return visible


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    if shutil.which(QUERY[0]) is None:
        return ()
    try:
        found = subprocess.run(QUERY, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in found.stdout.splitlines() if line.strip())
