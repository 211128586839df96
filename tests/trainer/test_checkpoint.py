"""Checkpoints are complete or absent, the damaged are passed over, and what comes back is what was saved."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer import checkpoint
from trainer.config import ConfigError
from trainer.manifest import verify_manifest


def make(seed: int = 0) -> tuple[dict[str, torch.nn.Module], dict[str, torch.optim.Optimizer]]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(requires_grad=False)
    return {"policy": model}, {"policy": torch.optim.AdamW([model.weight], lr=0.1, fused=True)}


def train(modules: dict[str, torch.nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> None:
    modules["policy"](torch.randn(4, 3)).sum().backward()
    optimizers["policy"].step()
    optimizers["policy"].zero_grad()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for name in ("base", "judge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("weights")
    configure(tmp_path)
    return tmp_path


def configure(run_dir: Path, **keys: int) -> None:
    options = {"reward_model": str(run_dir / "judge")}
    config = {"run_id": "r", "method": "ppo", "model": str(run_dir / "base"), "options": options, **keys}
    (run_dir / "run.json").write_text(json.dumps(config))


def test_weights_optimiser_counters_and_all_random_generators_come_back(run_dir: Path) -> None:
    modules, optimizers = make()
    train(modules, optimizers)
    random.seed(5)
    np.random.seed(5)
    checkpoint.save(run_dir, 7, modules, optimizers, {"beta": 0.25})
    drawn = (random.random(), np.random.normal(), torch.rand(1).item())
    train(modules, optimizers)

    others, other_optimizers = make(seed=1)
    assert checkpoint.resume(run_dir, others, other_optimizers) == (7, {"beta": 0.25})
    assert (random.random(), np.random.normal(), torch.rand(1).item()) == drawn
    train(others, other_optimizers)
    assert torch.equal(others["policy"].weight, modules["policy"].weight)


def test_frozen_weights_are_not_written(run_dir: Path) -> None:
    modules, optimizers = make()
    folder = checkpoint.save(run_dir, 1, modules, optimizers)
    with checkpoint.safe_open(folder / "weights.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["policy/weight"]


def test_a_run_without_checkpoints_starts_at_the_beginning(run_dir: Path) -> None:
    assert checkpoint.resume(run_dir, *make()) == (0, {})


def test_the_last_two_are_kept_and_no_partial_folder_stays(run_dir: Path) -> None:
    modules, optimizers = make()
    for step in (1, 2, 3):
        verify_manifest(checkpoint.save(run_dir, step, modules, optimizers))
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step_000002", "step_000003"]


@pytest.mark.parametrize("damage", ["flip", "cut", "lose a file", "lose the manifest"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    run_dir: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    modules, optimizers = make()
    good = checkpoint.save(run_dir, 1, modules, optimizers)
    bad = checkpoint.save(run_dir, 2, modules, optimizers)
    assert checkpoint.latest(run_dir) == bad
    weights = bad / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[:-8])
    elif damage == "lose a file":
        weights.unlink()
    else:
        (bad / "manifest.json").unlink()
    assert checkpoint.latest(run_dir) == good
    assert "step_000002 is damaged and is passed over" in capsys.readouterr().err


def test_metrics_after_the_checkpoint_and_a_half_written_line_are_cut_off(run_dir: Path) -> None:
    modules, optimizers = make()
    checkpoint.save(run_dir, 2, modules, optimizers)
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3)]
    (run_dir / "metrics.jsonl").write_text("".join(lines) + '{"step": 4, "lo')
    checkpoint.resume(run_dir, modules, optimizers)
    assert (run_dir / "metrics.jsonl").read_text() == "".join(lines[:2])


def test_a_changed_configuration_is_refused_rather_than_mixed_with_the_old_one(run_dir: Path) -> None:
    modules, optimizers = make()
    checkpoint.save(run_dir, 2, modules, optimizers)
    checkpoint.resume(run_dir, modules, optimizers)
    configure(run_dir, seed=2)
    with pytest.raises(ConfigError, match="another configuration"):
        checkpoint.resume(run_dir, modules, optimizers)


@pytest.mark.parametrize("name", ["base", "judge"])
def test_a_model_that_changed_in_its_place_is_refused(run_dir: Path, name: str) -> None:
    modules, optimizers = make()
    checkpoint.resume(run_dir, modules, optimizers)
    (run_dir / name / "model.safetensors").write_text("others")  # the attempt has loaded the ones before
    checkpoint.save(run_dir, 2, modules, optimizers)
    with pytest.raises(ConfigError, match=f"/{name} changed since"):
        checkpoint.resume(run_dir, modules, optimizers)
    (run_dir / name / "model.safetensors").write_text("weights")
    assert checkpoint.resume(run_dir, modules, optimizers) == (2, {})


def test_final_is_absent_until_it_is_complete_and_a_new_one_replaces_the_old(run_dir: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        checkpoint.write_final(run_dir, broken, "# card")
    assert not (run_dir / "final").exists()

    for text in ("old", "new"):
        folder = checkpoint.write_final(
            run_dir, lambda aside, text=text: (aside / "model").write_text(text) and None, "# card"
        )
    verify_manifest(folder)
    assert (folder / "model").read_text() == "new"
