"""The recipe of docs/cookbook.md, run as it stands. TRL is no dependency of ours: without it this is skipped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_client import address, token

from app.client import Client

pytest.importorskip("datasets", reason="datasets is not installed")
pytest.importorskip("trl", reason="TRL is not installed")

__all__ = ["address", "token"]

PAGE = Path(__file__).parents[2] / "docs" / "cookbook.md"


@pytest.mark.slow
def test_ten_lines_lead_from_rankings_to_a_run(
    address: str, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.demo.model import ensure_model

    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    project = Client(address, token).projects()[0]["id"]
    values = {"PLACKETT_URL": address, "PLACKETT_TOKEN": token, "PLACKETT_PROJECT": project}
    for name, value in (values | {"MODEL": str(ensure_model(tmp_path / "models"))}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102  (the page is ours)
    assert list((tmp_path / "dpo").iterdir())
