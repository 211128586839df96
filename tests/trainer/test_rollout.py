"""Sampling: the right distribution, the right log-probabilities, the right ends, and the same for the same seed."""

from typing import Any

import pytest
import torch
from builders import ask, build_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from trainer import modeling, rollout
from trainer.config import ConfigError, Lora, Sampling
from trainer.records import Prompt
from trainer.tree import Tree, collate

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]
NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def model(tiny_model: str) -> PreTrainedModel:
    """The tiny model with larger weights: a fresh one is so flat that mistakes would not show."""
    policy = modeling.load_policy(tiny_model, torch.float32, CPU)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(6 if parameter.ndim > 1 else 1)
    return policy


def draw(
    model: PreTrainedModel, sampling: Sampling, ends: list[int], seed: int = 0, rows: list[int] | None = None
) -> list[rollout.Answer]:
    rows = list(range(len(PROMPTS))) if rows is None else rows
    noise = rollout.noise(seed, [NAMES[row] for row in rows], sampling.max_new_tokens)
    return rollout.sample(model, [PROMPTS[row] for row in rows], sampling, ends, noise)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_samplers_log_probabilities_are_those_of_the_training_forward(
    model: PreTrainedModel, temperature: float
) -> None:
    ends = list(range(4, 40))
    answers = draw(model, Sampling(max_new_tokens=24, temperature=temperature), ends)
    assert len({len(answer.ids) for answer in answers}) > 1  # some ended early, so rows were dropped on the way
    batch = collate([Tree(p, [a.ids]) for p, a in zip(PROMPTS, answers, strict=True)], CPU, "rows")
    with torch.no_grad():
        expected = modeling.completion_logps(model, batch, temperature)
    found = torch.tensor([logp for answer in answers for logp in answer.logps])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_an_answer_is_the_same_alone_and_in_any_batch(model: PreTrainedModel) -> None:
    ends = list(range(4, 40))
    together = draw(model, Sampling(max_new_tokens=24, batch_size=4), ends)
    by_two = draw(model, Sampling(max_new_tokens=24, batch_size=2), ends)
    alone = [draw(model, Sampling(max_new_tokens=24), ends, rows=[row])[0] for row in range(4)]
    assert [a.ids for a in together] == [a.ids for a in by_two] == [a.ids for a in alone]


def test_answers_drawn_again_where_memory_ran_out_are_the_same(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends, sampling = list(range(4, 40)), Sampling(max_new_tokens=24, batch_size=4)
    together = draw(model, sampling, ends)
    honest, tried, limit = rollout._sample_batch, list[int](), 1

    def sample_batch(model: Any, prompts: list[list[int]], *rest: Any) -> list[rollout.Answer]:
        tried.append(len(prompts))
        if len(prompts) > limit:
            torch.empty(1 << 60)  # more than there is anywhere
        return honest(model, prompts, *rest)

    monkeypatch.setattr(rollout, "_sample_batch", sample_batch)
    noise, room = rollout.noise(0, NAMES, 24), rollout.Room(4)
    found = rollout.sample(model, PROMPTS, sampling, ends, noise, room)
    assert [answer.ids for answer in found] == [answer.ids for answer in together]
    assert tried == [4, 2, 1, 1, 1, 1]
    rollout.sample(model, PROMPTS, sampling, ends, noise, room)
    assert tried[6:] == [1, 1, 1, 1]  # for good
    assert "answers are drawn 1 at a time" in capsys.readouterr().err
    limit = 0
    with pytest.raises(ConfigError, match=r"lower sampling\.max_new_tokens"):
        rollout.sample(model, PROMPTS, sampling, ends, noise)


def test_a_prompt_asked_several_times_is_read_once(model: PreTrainedModel) -> None:
    ends, sampling = list(range(4, 40)), Sampling(max_new_tokens=24, batch_size=8)
    asked = [PROMPTS[row] for row in (0, 0, 0, 3, 3, 3)]
    noise = rollout.noise(0, ["a", "b", "c", "d", "e", "f"], 24)
    read: list[torch.Tensor] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _module, _arguments, keywords: read.append(keywords["input_ids"]), with_kwargs=True
    )
    together = rollout.sample(model, asked, sampling, ends, noise)
    hook.remove()
    assert read[0].shape == (2, 3)  # two prompts, padded to three tokens
    alone = [rollout.sample(model, [asked[n]], sampling, ends, noise[n : n + 1])[0] for n in range(6)]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert len({tuple(answer.ids) for answer in together}) == 6


def test_padding_on_the_left_does_not_move_absolute_positions() -> None:
    torch.manual_seed(0)
    policy = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=1, n_head=2)).eval()
    with torch.no_grad():
        policy.get_parameter("transformer.wpe.weight").mul_(50)
    sampling, noise = Sampling(max_new_tokens=8, temperature=1.0), rollout.noise(0, NAMES, 8)
    answers = rollout.sample(policy, PROMPTS, sampling, [-1], noise)
    batch = collate([Tree(p, [a.ids]) for p, a in zip(PROMPTS, answers, strict=True)], CPU, "rows")
    with torch.no_grad():
        expected = modeling.completion_logps(policy, batch)
    found = torch.tensor([logp for answer in answers for logp in answer.logps])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(model: PreTrainedModel) -> None:
    sampling = Sampling(max_new_tokens=12)
    first, again, other = (draw(model, sampling, [1], seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_an_answer_stops_at_its_first_end_token_whichever_that_is(model: PreTrainedModel) -> None:
    ends = list(range(4, 60))
    for answer in draw(model, Sampling(max_new_tokens=40, temperature=1.5), ends):
        assert not set(answer.ids[:-1]) & set(ends)
        assert (answer.ids[-1] in ends) == (answer.finish_reason == "stop")
        assert answer.finish_reason == "stop" or len(answer.ids) == 40
        assert len(answer.logps) == len(answer.ids)


def test_without_an_end_token_every_answer_has_the_full_length(model: PreTrainedModel) -> None:
    answers = draw(model, Sampling(max_new_tokens=7), [-1])
    assert [(len(answer.ids), answer.finish_reason) for answer in answers] == [(7, "length")] * 4


def test_greedy_takes_the_likeliest_token(model: PreTrainedModel) -> None:
    answers = draw(model, Sampling(max_new_tokens=3, temperature=0.0), [-1])
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = list(prompt)
        for token in answer.ids:
            with torch.no_grad():
                assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_the_token_is_the_first_whose_cumulative_probability_passes_the_uniform() -> None:
    # Probabilities 0.2, 0.3, 0.5: the steps lie at 0.2 and 0.5.
    logits = torch.tensor([0.2, 0.3, 0.5]).log().expand(6, 3)
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.49, 0.51, 0.999999], dtype=torch.float64)
    tokens, logps, entropy = rollout.choose(logits, uniforms, 1.0)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(logps.exp(), torch.tensor([0.2, 0.2, 0.3, 0.3, 0.5, 0.5]))
    # -(0.2 ln 0.2 + 0.3 ln 0.3 + 0.5 ln 0.5) = 1.0296530
    torch.testing.assert_close(entropy, torch.full((6,), 1.0296530), rtol=1e-5, atol=0.0)


def test_a_token_without_probability_is_never_drawn_at_any_edge_of_a_block() -> None:
    possible = [3, 255, 256, 511, 512, 599]
    logits = torch.full((1, 600), -200.0)
    logits[0, possible] = 0.0
    uniforms = torch.arange(6000, dtype=torch.float64) / 6000
    tokens, _, _ = rollout.choose(logits.expand(6000, 600), uniforms, 1.0)
    assert tokens.unique(return_counts=True)[0].tolist() == possible
    assert (tokens.unique(return_counts=True)[1] - 1000).abs().max() <= 1


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_agree_with_softmax(temperature: float) -> None:
    logits = torch.tensor([1.5, 0.2, -0.7, 0.0, -2.0])
    expected = torch.softmax(logits.double() / temperature, dim=0) * 20_000
    uniforms = rollout.noise(11, ["frequencies"], 20_000)[0]
    tokens, _, _ = rollout.choose(logits.expand(20_000, 5), uniforms, temperature)
    counts = torch.bincount(tokens, minlength=5)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 18.47  # 99.9 % quantile at 4 degrees of freedom


def test_top_p_draws_from_the_smallest_set_with_that_much_probability() -> None:
    # Sorted: 0.5, 0.3, 0.15, 0.05. With 0.8 two tokens suffice, renormalised to 5/8 and 3/8.
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().expand(8, 4)
    uniforms = torch.arange(8, dtype=torch.float64) / 8 + 0.01
    tokens, logps, _ = rollout.choose(logits, uniforms, 1.0, top_p=0.79)
    assert tokens.tolist() == [1, 1, 1, 1, 1, 3, 3, 3]
    torch.testing.assert_close(logps[0].exp(), torch.tensor(0.5))


def test_noise_depends_on_seed_and_name_alone() -> None:
    both, one = rollout.noise(1, ["x", "y"], 5), rollout.noise(1, ["y"], 5)
    assert torch.equal(both[1], one[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(rollout.noise(2, ["y"], 5), one)


def test_every_end_token_of_the_generation_settings_counts(tiny_model: str) -> None:
    policy = modeling.load_policy(tiny_model, torch.float32, CPU)
    policy.generation_config.eos_token_id = [7, 9]
    assert rollout.end_ids(policy, build_tokenizer()) == [1, 7, 9]


def test_text_leaves_the_end_token_out_even_if_it_is_an_ordinary_one() -> None:
    tokenizer = build_tokenizer()
    hello, bang = tokenizer.encode("hello"), tokenizer.encode("!")
    stopped = rollout.Answer(hello + bang, "stop", [], 0.0)
    assert rollout.text_of(tokenizer, stopped) == "hello"
    assert rollout.text_of(tokenizer, stopped._replace(finish_reason="length")) == "hello!"


def test_a_prompt_without_room_for_an_answer_is_refused_by_name() -> None:
    prompts = [Prompt("short", ask("hi")), Prompt("long", ask("why " * 20))]
    tokenizer, sampling = build_tokenizer(), Sampling(max_new_tokens=32)
    assert len(rollout.encode_prompts(tokenizer, prompts[:1], sampling, 64)) == 1
    with pytest.raises(ConfigError, match="Prompt long has"):
        rollout.encode_prompts(tokenizer, prompts, sampling, 64)


@pytest.mark.parametrize("lora", [Lora(rank=4), None], ids=["lora", "full"])
def test_the_sampler_gets_the_policys_present_weights(tiny_model: str, lora: Lora | None) -> None:
    policy = modeling.load_policy(tiny_model, torch.float32, CPU)
    policy = modeling.add_lora(policy, lora) if lora else policy
    sampler = modeling.load_policy(tiny_model, torch.float32, CPU)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        expected, before = policy(input_ids=ids).logits, sampler(input_ids=ids).logits
        rollout.copy_weights(policy, sampler)
        assert not torch.allclose(before, expected, atol=1e-3)
        torch.testing.assert_close(sampler(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
