"""Where a run computes, in which precision and with whom: one `Device` for the process, seeded and deterministic."""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils import deterministic

from trainer.config import ConfigError, RunConfig
from trainer.flops import Load, Work, peak, share_of_peak
from trainer.parallel import ALONE, Team, join, local_device


class Device(NamedTuple):
    """The torch device, the precision of matrix products and of saved weights, and the processes that share the run."""

    device: torch.device
    dtype: torch.dtype
    team: Team = ALONE

    def autocast(self) -> torch.autocast:
        """Return the context that every training forward runs in: bfloat16 products, or nothing in float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    def speed(self, tokens: int, load: Load, work: Work, seconds: float) -> dict[str, float]:
        """Return tokens a second, the most memory so far, and on a GPU whose peak is known the share of it (MFU)."""
        speed = {"tokens_per_second": round(tokens / seconds, 1)} | self.mfu(load, work, seconds)
        return speed | {"peak_memory_mb": self.peak_memory_mb()}

    def mfu(self, load: Load, work: Work, seconds: float) -> dict[str, float]:
        """Return {"mfu": the share of all GPUs' peak that training under this load reached}, or nothing."""
        return share_of_peak(work.flops(load), seconds, peak(self.device, self.dtype), self.team.size)

    def peak_memory_mb(self) -> float:
        """Return the most memory held so far in MiB: of the GPU if there is one, else of the process."""
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)
        return round(process_peak_mb(), 1)


def process_peak_mb() -> float:
    """Return the most memory that this process has held, in MiB.

    Asked of /proc where there is one: `getrusage` counts what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out, a GPU's or the CPU's.

    torch has a class for a GPU's alone. The CPU's allocator raises a plain `RuntimeError`, in one of two wordings.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return "DefaultCPUAllocator" in said and ("can't allocate memory" in said or "not enough memory" in said)


def setup(config: RunConfig) -> Device:
    """Choose device and precision, seed Python, NumPy and torch, and ask the CPU for deterministic algorithms."""
    device = choose_device(local_device(config.device))
    dtype = choose_dtype(config.precision, device)
    random.seed(config.seed)
    np.random.seed(config.seed)  # a library may draw from the global generator
    torch.manual_seed(config.seed)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # Which fills all memory that is not yet written to, for those who read it by mistake: a pass over every tensor.
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # behind a property of the module
    return Device(device, dtype, join(device))


def choose_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is a GPU where there is one. Raises `ConfigError` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu or cuda (or cuda:1, …), not {name!r}.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {name!r}, but no CUDA device is present; set it to auto or cpu.")
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return bfloat16 where its products are fast: CUDA from Ampere on, and CPUs with AMX or AVX-512 BF16."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32
