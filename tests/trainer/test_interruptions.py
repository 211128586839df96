"""Whatever ends a run in the middle of its work, a full disk, a stop or a kill, it goes on to the very same end."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import MakeRun, interrupt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_methods import DATA, FAST, StopAfter, assert_same

from trainer import checkpoint, dpo, modeling
from trainer.__main__ import main
from trainer.config import load_run
from trainer.manifest import verify_manifest
from trainer.metrics import MetricsFile
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, EXIT_NO_SPACE, EXIT_STOPPED

SETTINGS: dict[str, Any] = {**DATA["dpo"], "lora": {"rank": 4}, "options": {"optim": FAST}, "checkpoint_steps": 4}
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FROM_RUST = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def during_save(file: str, act: Callable[[Path], None]) -> Callable[..., None]:
    """Return a `save_file` that does something else too, once it has written this file of the eighth step."""
    honest = checkpoint.save_file

    def save_file(tensors: Any, path: Path) -> None:
        honest(tensors, path)
        if path.name == file and path.parent.name == ".step_000008.partial":
            act(path)

    return save_file


def run_full(error: Exception) -> Callable[[Path], None]:
    """Return what a disk does that is full in the middle of a file."""

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:100])
        raise error

    return cut


def fill_in_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "save_file", during_save("optimizer.safetensors", run_full(NO_SPACE)))


def fill_under_safetensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "save_file", during_save("weights.safetensors", run_full(FROM_RUST)))


def fill_in_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = MetricsFile.write

    def write(self: MetricsFile, step: int, **values: Any) -> None:
        if step == 7:
            self._file.write('{"step": 7, "lo')
            self._file.flush()
            raise NO_SPACE
        honest(self, step, **values)

    monkeypatch.setattr(MetricsFile, "write", write)


def fill_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = modeling.save_policy

    def save_policy(*arguments: Any) -> None:
        honest(*arguments)
        raise NO_SPACE

    monkeypatch.setattr(modeling, "save_policy", save_policy)


@pytest.mark.parametrize(
    ("fill", "left"),
    [
        (fill_in_a_checkpoint, ["step_000004"]),
        (fill_under_safetensors, ["step_000004"]),
        (fill_in_the_metrics, ["step_000004"]),
        (fill_in_the_model, ["step_000008", "step_000012"]),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before(
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fill: Callable[[pytest.MonkeyPatch], None],
    left: list[str],
) -> None:
    whole, run_dir = (make_run("dpo", name=name, **SETTINGS) for name in ("whole", "full"))
    assert main(["dpo", "--run", str(whole)]) == EXIT_DONE
    capsys.readouterr()
    with monkeypatch.context() as patch:
        fill(patch)
        assert main(["dpo", "--run", str(run_dir)]) == EXIT_NO_SPACE
    error = capsys.readouterr().err
    assert error.startswith(f"The disk is full, so {run_dir} cannot be written to: make room")
    assert error.count("\n") == 1
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == left
    assert not list(run_dir.rglob("*.partial"))
    assert not (run_dir / "final").exists()

    assert main(["dpo", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)


def test_any_other_fault_of_the_disk_is_no_full_one(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    worn = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(checkpoint, "save_file", during_save("optimizer.safetensors", run_full(worn)))
    with pytest.raises(OSError, match="Input/output"):
        main(["dpo", "--run", str(make_run("dpo", **SETTINGS))])


def test_a_stop_in_the_middle_of_a_save_lets_it_end_and_loses_nothing(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run_dir = (make_run("dpo", name=name, **SETTINGS) for name in ("whole", "stopped"))
    assert main(["dpo", "--run", str(whole)]) == EXIT_DONE

    def stop(_path: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", during_save("optimizer.safetensors", stop))
        assert main(["dpo", "--run", str(run_dir)]) == EXIT_STOPPED
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step_000008", "step_000009"]
    for folder in (run_dir / "checkpoints").iterdir():
        verify_manifest(folder)
    assert not (run_dir / "final").exists()

    assert main(["dpo", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)


def test_a_base_model_that_changed_in_its_place_is_not_gone_on_from(
    make_run: MakeRun, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    whole, run_dir = (make_run("dpo", name=name, model=str(base), **SETTINGS) for name in ("whole", "stopped"))
    assert main(["dpo", "--run", str(whole)]) == EXIT_DONE
    assert dpo.run(run_dir, load_run(run_dir), StopAfter(run_dir, 3)) == EXIT_STOPPED
    weights = load_file(base / "model.safetensors")
    save_file({name: 1.01 * values for name, values in weights.items()}, base / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert main(["dpo", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith(f"{base} changed since {run_dir} wrote its checkpoints")
    assert error.count("\n") == 1

    shutil.copy(Path(tiny_model) / "model.safetensors", base)
    assert main(["dpo", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)


@pytest.mark.parametrize(
    ("method", "options", "ends"),
    [
        ("dpo", {}, {4: signal.SIGKILL, 16: signal.SIGTERM}),
        ("kto", {}, {4: signal.SIGKILL}),
        ("reward", {}, {4: signal.SIGKILL}),
        ("reward", {"models": 2}, {4: signal.SIGKILL}),
    ],
    ids=["dpo", "kto", "reward", "reward_models"],
)
def test_a_run_survives_sigkill_and_sigterm_at_any_step(
    make_run: MakeRun, method: str, options: dict[str, Any], ends: dict[int, signal.Signals]
) -> None:
    chosen = {**options, "optim": {**FAST, "epochs": 10.0 * len(ends)}}
    settings = {**DATA[method], "lora": {"rank": 4}, "options": chosen, "checkpoint_steps": 4}
    whole, run_dir = (make_run(method, name=name, **settings) for name in ("whole", "killed"))
    assert main([method, "--run", str(whole)]) == EXIT_DONE

    for step, number in ends.items():
        code = interrupt(run_dir, method, number, (run_dir / "checkpoints" / f"step_{step:06d}").exists)
        assert code == (EXIT_STOPPED if number == signal.SIGTERM else -number)
    assert main([method, "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)
