"""Samplers: the numbers of their weights, answers of older weights, and vLLM's interface with a stand-in behind it."""

import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, OPTIM, PROMPTS, MakeRun, build_tokenizer, options, read_lines
from transformers import AutoModelForCausalLM, PreTrainedModel

from trainer import modeling, ppo, rollout, sampler
from trainer.__main__ import main
from trainer.config import Lora, RunConfig, Sampling, load_run, parse_run
from trainer.records import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_DONE, DivergedError
from trainer.sampler_vllm import VllmSampler
from trainer.stop import StopSignal

ASKED = [[5, 6, 7], [8], [9, 10]]
NAMES = ["a", "b", "c"]


class Stale(sampler.TransformersSampler):
    """Takes weights some iterations late, as an engine would that samples while the trainer trains."""

    def __init__(self, *arguments: Any, late: int) -> None:
        super().__init__(*arguments)
        self._late, self._given = late, list[tuple[int, dict[str, torch.Tensor]]]()

    def load(self, policy: PreTrainedModel, version: int) -> None:
        state = {name: value.detach().clone() for name, value in policy.state_dict().items()}
        self._given.append((version, state))
        version, old = self._given[max(0, len(self._given) - 1 - self._late)]
        policy.load_state_dict(old)
        super().load(policy, version)
        policy.load_state_dict(state)


class Liar(Stale):
    """Keeps the first weights and says that they are the ones it was given."""

    def load(self, policy: PreTrainedModel, version: int) -> None:
        super().load(policy, version)
        self._version = version


def stale(late: int, kind: type[Stale] = Stale) -> Any:
    def load(_run: Path, config: RunConfig, policy: PreTrainedModel, tokenizer: Any, _device: Any) -> Stale:
        copy = modeling.load_policy(config.model, torch.float32, CPU.device)
        given = config.options.sampling  # type: ignore[union-attr]
        return kind(copy, rollout.end_ids(policy, tokenizer), given, config.seed, late=late)

    return load


def test_answers_of_the_weights_before_are_weighed_and_older_ones_are_refused(
    make_run: MakeRun, letter_judge: str, sharp_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optim = {**OPTIM, "learning_rate": 2e-2}
    for late in (0, 1, 2):
        chosen = options(letter_judge, iterations=4, optim=optim)
        run_dir = make_run(
            "ppo", name=f"late{late}", model=sharp_model, lora={"rank": 4}, prompts=PROMPTS, options=chosen
        )
        monkeypatch.setattr(sampler, "load_sampler", stale(late))
        if late == 2:
            with pytest.raises(DivergedError, match="weights number 1 where number 3 was given to it"):
                ppo.run(run_dir, load_run(run_dir), StopSignal())
            continue
        assert ppo.run(run_dir, load_run(run_dir), StopSignal()) == EXIT_DONE
        rows = read_lines(run_dir / "metrics.jsonl")[1:]
        assert [row["answers_behind"] for row in rows] == [16 * late] * 3
        assert all((abs(row["importance_weight"] - 1) > 1e-3) == bool(late) for row in rows)
        assert all((row["sampler_gap"] > 1e-2) == bool(late) for row in rows)
        weights = {line["iteration"]: line["weights"] for line in read_lines(run_dir / "rollouts.jsonl")}
        assert weights == ({1: 1, 2: 2, 3: 3, 4: 4} if late == 0 else {1: 1, 2: 1, 3: 2, 4: 3})


def test_a_sampler_that_never_changes_is_found_out_by_its_negative_kl(
    make_run: MakeRun,
    letter_judge: str,
    sharp_model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    optim = {**OPTIM, "learning_rate": 5e-2}
    more = {"kl_coefficient": 0.0, "importance_cap": None, "value_start": "zero"}
    chosen = options(letter_judge, iterations=12, optim=optim, **more)
    settings = {"model": sharp_model, "lora": {"rank": 4}, "prompts": PROMPTS, "options": chosen}
    for late, code in ((0, EXIT_DONE), (99, EXIT_DIVERGED)):
        run_dir = make_run("ppo", name=f"late{late}", **settings)
        monkeypatch.setattr(sampler, "load_sampler", stale(late, Liar))
        assert main(["ppo", "--run", str(run_dir)]) == code
    error = capsys.readouterr().err
    assert error.startswith("The KL to the starting model is negative: -")
    assert error.count("\n") == 1
    rows = read_lines(run_dir / "metrics.jsonl")
    assert all(row["kl"] < -0.1 for row in rows[-2:])


def test_answers_of_weights_to_come_are_refused() -> None:
    answer = rollout.Answer([1], "stop", [0.0], 0.0, version=5)
    assert sampler.check_versions([answer], 5) == 0
    assert sampler.check_versions([answer, answer], 6) == 2
    with pytest.raises(DivergedError, match="weights number 5 where number 4"):
        sampler.check_versions([answer], 4)


# vLLM cannot run here. What stands in for it has the documented interface and transformers behind it.


class StandInParameters(types.SimpleNamespace):
    """`vllm.SamplingParams`."""


class StandIn:
    """`vllm.LLM`: reads weights again from a folder, answers from token ids, gives the log-probability drawn."""

    def __init__(self, *, model: str, logprobs_mode: str, generation_config: str, **settings: Any) -> None:
        assert (logprobs_mode, generation_config) == ("processed_logprobs", "vllm")
        assert settings["trust_remote_code"] is False
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.emptied = 0

    def collective_rpc(self, method: str, kwargs: dict[str, str]) -> None:
        assert method == "reload_weights"
        self.model = AutoModelForCausalLM.from_pretrained(kwargs["weights_path"])

    def reset_prefix_cache(self) -> None:
        self.emptied += 1

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], parameters: Sequence[StandInParameters], *, use_tqdm: bool
    ) -> list[Any]:
        assert not use_tqdm
        found = []
        for prompt, asked in zip(prompts, parameters, strict=True):
            assert (asked.top_p, asked.logprobs, asked.detokenize) == (1.0, 0, False)
            given = Sampling(max_new_tokens=asked.max_tokens, temperature=asked.temperature)
            noise = rollout.noise(asked.seed, ["x"], asked.max_tokens)
            (answer,) = rollout.sample(self.model, [prompt["prompt_token_ids"]], given, asked.stop_token_ids, noise)
            steps = [
                {token: types.SimpleNamespace(logprob=logp)}
                for token, logp in zip(answer.ids, answer.logps, strict=True)
            ]
            output = types.SimpleNamespace(
                token_ids=tuple(answer.ids), finish_reason=answer.finish_reason, logprobs=steps
            )
            found.append(types.SimpleNamespace(outputs=[output]))
        return found


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, StandInParameters  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.mark.usefixtures("stand_in")
def test_vllm_gets_the_merged_weights_and_gives_ids_ends_and_log_probabilities(tiny_model: str, tmp_path: Path) -> None:
    given = options("judge", sampler="vllm")
    config = parse_run({"run_id": "r", "method": "ppo", "model": tiny_model, "options": given, "max_length": 64})
    policy = modeling.add_lora(modeling.load_policy(tiny_model, torch.float32, CPU.device), Lora(rank=4))
    ends = list(range(4, 60))
    engine = VllmSampler(tmp_path / "sampler", config, build_tokenizer(), ends, CPU)
    engine.load(policy, 1)
    before = engine.answer(ASKED, NAMES)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    engine.load(policy, 2)
    after = engine.answer(ASKED, NAMES)
    assert [answer.version for answer in (*before, *after)] == [1] * 3 + [2] * 3
    assert [answer.ids for answer in before] != [answer.ids for answer in after]
    for prompt, answer in zip(ASKED, after, strict=True):
        assert (answer.finish_reason == "stop") == (answer.ids[-1] in ends)
        ids = torch.tensor([[*prompt, *answer.ids]])
        with torch.no_grad():
            logps = policy(input_ids=ids).logits.log_softmax(dim=-1)[0, len(prompt) - 1 : -1]
        expected = logps.gather(1, torch.tensor(answer.ids)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(answer.logps), expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("stand_in")
def test_an_engine_that_hides_end_tokens_is_refused(tiny_model: str, tmp_path: Path) -> None:
    given = options("judge", sampler="vllm")
    config = parse_run({"run_id": "r", "method": "ppo", "model": tiny_model, "options": given, "max_length": 64})
    engine = VllmSampler(tmp_path / "sampler", config, build_tokenizer(), [1], CPU)
    step = {7: types.SimpleNamespace(logprob=-1.0)}
    cut = types.SimpleNamespace(token_ids=(7,), finish_reason="length", logprobs=[step])
    assert engine._read(cut).finish_reason == "length"
    with pytest.raises(DivergedError, match="ended an answer without its end token"):
        engine._read(types.SimpleNamespace(token_ids=(7,), finish_reason="stop", logprobs=[step]))


def test_vllm_is_refused_in_one_sentence_where_it_is_not_installed(
    make_run: MakeRun, letter_judge: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    run_dir = make_run("ppo", prompts=PROMPTS, options=options(letter_judge, sampler="vllm", iterations=1))
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "vLLM is not installed" in capsys.readouterr().err
