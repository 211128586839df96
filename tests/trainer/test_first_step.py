"""What the first step of a run shows to be wrong is refused by the command, before anything is saved."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, OPTIM, PROMPTS, MakeRun, build_tokenizer, options
from safetensors import safe_open
from safetensors.torch import save_file
from test_methods import DATA, FAST

from trainer import modeling
from trainer.__main__ import main
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE

ONE_STEP = {**FAST, "max_steps": 1}


@pytest.fixture(scope="module")
def deaf_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the tiny model whose attention says nothing: its output depends on no query."""
    folder = tmp_path_factory.mktemp("deaf_model")
    policy = modeling.load_policy(tiny_model, torch.float32, CPU.device)
    with torch.no_grad():
        for layer in policy.base_model.layers:
            layer.self_attn.o_proj.weight.zero_()
    modeling.save_policy(policy, build_tokenizer(), folder, torch.float32)
    return str(folder)


@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "kto", "ppo", "rloo"])
def test_adapters_that_no_gradient_reaches_end_the_run(
    make_run: MakeRun, deaf_model: str, letter_judge: str, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    data: dict[str, Any] = {"prompts": PROMPTS} if method in ("ppo", "rloo") else DATA[method]
    short = options(letter_judge, iterations=1, answers_per_prompt=2, optim=OPTIM)
    chosen = short if method in ("ppo", "rloo") else {"optim": ONE_STEP}
    codes = []
    for layer in ("o_proj", "q_proj"):
        lora = {"rank": 4, "targets": [layer]}
        run_dir = make_run(method, name=layer, **data, model=deaf_model, lora=lora, options=chosen)
        capsys.readouterr()
        codes.append(main([method, "--run", str(run_dir)]))
    assert codes == [EXIT_DONE, EXIT_BAD_INPUT]
    assert "No gradient reaches the adapters" in capsys.readouterr().err
    assert not (run_dir / "checkpoints").exists()


@pytest.mark.parametrize(
    ("method", "sentence"), [("dpo", "not ln 2 = 0.6931"), ("kto", "not 0.5: the policy does not start as")]
)
def test_a_first_loss_that_is_not_the_reference_s_ends_the_run(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], method: str, sentence: str
) -> None:
    run_dir = make_run(method, **DATA[method], lora={"rank": 4}, options={"optim": ONE_STEP})
    assert main([method, "--run", str(run_dir)]) == EXIT_DONE
    tamper_with(run_dir / "reference.safetensors")
    shutil.rmtree(run_dir / "checkpoints")
    capsys.readouterr()
    assert main([method, "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert sentence in capsys.readouterr().err
    assert not (run_dir / "checkpoints").exists()


def tamper_with(path: Path) -> None:
    """Change what the reference said, under the key that it was said under."""
    with safe_open(path, framework="pt") as file:
        logps, facts = file.get_tensor("logps"), file.metadata()
    save_file({"logps": 1.2 * logps}, path, metadata=facts)
