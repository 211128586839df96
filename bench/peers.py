"""A peer's virtual environment under `build/`, made on first use. The product needs none of it."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(peer: str, beside: Sequence[str] = (), *, ours: Path | None = None) -> Path | None:
    """Return the folder of the programs of the peer's environment, which holds its exact version.

    `peer` is a requirement such as "trl==1.16.0", `beside` is what pip gets with it, and packages in the folder `ours`
    are in sight of it. Says so and returns None where it cannot be made, as without a network.
    """
    folder = ROOT / "build" / peer.replace("==", "-")
    programs, ready = folder / "bin", folder / "ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        if ours is not None:
            (packages,) = folder.glob("lib/python*/site-packages")
            (packages / "ours.pth").write_text(f"{ours}\n", encoding="utf-8")
        install = [str(programs / "python"), "-m", "pip", "install", "--quiet", peer, *beside]
        if subprocess.run(install, cwd=ROOT, check=False).returncode:
            print(f"skipped, pip could not install {peer}", file=sys.stderr)
            return None
        ready.touch()
    return programs
