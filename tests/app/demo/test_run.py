"""The demo's folder, its progress, and (slow) a whole turn of the loop with a tiny random model."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from app.demo.progress import Story, spoken
from app.demo.run import MARKER, prepare
from app.embedded.folder import exclusive, make_var
from app.errors import SetupError


def test_a_new_folder_is_marked_as_a_demos(tmp_path: Path) -> None:
    prepare(tmp_path / "demo", fresh=False)
    assert (tmp_path / "demo" / MARKER).is_file()


def test_an_earlier_demo_is_kept_unless_a_fresh_one_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    prepare(folder, fresh=False)
    (folder / "runs").mkdir()
    prepare(folder, fresh=False)
    assert (folder / "runs").exists()
    prepare(folder, fresh=True)
    assert [path.name for path in folder.iterdir()] == [MARKER]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("precious")
    with pytest.raises(SetupError, match="holds something that is no demo"):
        prepare(tmp_path / "demo", fresh=fresh)
    assert (tmp_path / "demo" / "thesis.tex").read_text() == "precious"


def test_a_running_demo_is_not_deleted_under_its_feet(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    prepare(folder, fresh=False)
    make_var(folder)
    with exclusive(folder), pytest.raises(SetupError, match="A demo is running in"):
        prepare(folder, fresh=True)
    prepare(folder, fresh=True)


def test_without_a_terminal_each_step_is_one_line() -> None:
    out = io.StringIO()
    with Story(Console(file=out, width=200)) as story:
        with story.step("sample", "Sample answers") as step:
            step.update(0, None)
            step.update(3, 12)
            step.result = "288 answers."
        with pytest.raises(RuntimeError), story.step("sft", "Fine-tune"):
            raise RuntimeError
    assert out.getvalue() == "✓ Sample answers (0 s)  288 answers.\n", "a step that failed has no line"
    assert list(story.seconds) == ["sample"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "about 1 s left"), (89.0, "about 89 s left"), (150.0, "about 2 min left")]
)
def test_time_left_is_said_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
