"""Log-probabilities, adapters, and the models that are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders import build_tokenizer

from trainer import head, modeling
from trainer.config import ConfigError, Lora
from trainer.tree import Tree, collate

CPU = torch.device("cpu")
LONG = Tree(list(range(10, 30)), [list(range(40, 70))])
SHORT = Tree(list(range(80, 87)), [[90, 91, 1]])


def load(model: str) -> modeling.PreTrainedModel:
    return modeling.load_policy(model, torch.float32, CPU)


def shake(model: modeling.PreTrainedModel) -> None:
    """Move the adapters away from the zero that they start at."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def test_log_probabilities_are_those_of_the_whole_softmax_at_completion_tokens(tiny_model: str) -> None:
    model = load(tiny_model)
    batch = collate([SHORT], CPU, "rows")
    logps = modeling.completion_logps(model, batch)
    expected = model(input_ids=batch.input_ids).logits.log_softmax(dim=-1)
    # Token t is predicted from position t - 1; prompt tokens are not scored.
    answer = range(len(SHORT.prompt), SHORT.length)
    wanted = torch.stack([expected[0, t - 1, batch.input_ids[0, t]] for t in answer])
    torch.testing.assert_close(logps, wanted, rtol=0, atol=1e-5)


def test_log_probabilities_are_the_same_alone_and_padded(tiny_model: str) -> None:
    model = load(tiny_model)
    alone = modeling.completion_logps(model, collate([SHORT], CPU, "rows"))
    padded = modeling.completion_logps(model, collate([LONG, SHORT], CPU, "rows"))
    torch.testing.assert_close(padded[-3:], alone, rtol=0, atol=1e-4)


def test_chunks_of_the_output_layer_change_neither_values_nor_gradients(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = collate([LONG, SHORT], CPU, "rows")
    results = []
    for rows in (7, 1000):
        monkeypatch.setattr(head, "ROWS", rows)
        model = load(tiny_model)
        logps = modeling.completion_logps(model, batch)
        logps.sum().backward()
        results.append((logps.detach(), model.get_output_embeddings().weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_the_entropy_of_each_position_comes_from_the_same_pass(tiny_model: str) -> None:
    model = load(tiny_model)
    batch = collate([LONG, SHORT], CPU, "rows")
    hidden = modeling.hidden_states(model, batch)[batch.sources]
    logps, entropies = modeling.token_logps_and_entropies(model, hidden, batch.targets, temperature=0.5)
    torch.testing.assert_close(logps, modeling.completion_logps(model, batch, temperature=0.5), rtol=0, atol=1e-6)
    expected = torch.distributions.Categorical(logits=modeling.logits(model, hidden) / 0.5).entropy()
    torch.testing.assert_close(entropies, expected, rtol=1e-4, atol=1e-5)
    assert logps.requires_grad
    assert not entropies.requires_grad

    (wanted,) = torch.autograd.grad(expected.mean(), hidden, retain_graph=True)
    _, trained = modeling.token_logps_and_entropies(model, hidden, batch.targets, temperature=0.5, gradient=True)
    (found,) = torch.autograd.grad(trained.mean(), hidden)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_temperature_divides_the_logits(tiny_model: str) -> None:
    model = load(tiny_model)
    batch = collate([SHORT], CPU, "rows")
    cool = modeling.completion_logps(model, batch, temperature=0.5)
    expected = (model(input_ids=batch.input_ids).logits / 0.5).log_softmax(dim=-1)
    last = batch.input_ids.shape[1] - 1
    assert cool[-1].item() == pytest.approx(expected[0, last - 1, batch.input_ids[0, last]].item(), abs=1e-5)


def test_new_adapters_change_nothing_and_trained_ones_can_be_switched_off_and_merged(tiny_model: str) -> None:
    batch = collate([LONG, SHORT], CPU, "rows")
    base = modeling.completion_logps(load(tiny_model), batch)
    model = modeling.add_lora(load(tiny_model), Lora(rank=4))
    assert torch.equal(modeling.completion_logps(model, batch), base)

    shake(model)
    trained = modeling.completion_logps(model, batch)
    assert not torch.allclose(trained, base, atol=1e-2)
    with modeling.reference(model):
        assert torch.equal(modeling.completion_logps(model, batch), base)
    torch.testing.assert_close(
        modeling.completion_logps(modeling.merge_lora(model), batch), trained, rtol=1e-4, atol=1e-4
    )


def test_adapters_are_float32_on_a_bfloat16_base(tiny_model: str) -> None:
    model = modeling.add_lora(modeling.load_policy(tiny_model, torch.bfloat16, CPU), Lora(rank=4))
    trainable = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    frozen = {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad}
    assert (trainable, frozen) == ({torch.float32}, {torch.bfloat16})


def test_adapters_leave_the_output_layer_alone(tiny_model: str) -> None:
    model = modeling.add_lora(load(tiny_model), Lora(rank=4))
    assert not [name for name, p in model.named_parameters() if p.requires_grad and "lm_head" in name]


def test_layers_that_are_not_there_are_named_in_a_sentence(tiny_model: str) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets do not fit the model"):
        modeling.add_lora(load(tiny_model), Lora(targets=("no_such_layer",)))


def test_a_pad_token_equal_to_the_end_token_is_replaced_by_a_spare_one(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    loaded = modeling.load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id != loaded.eos_token_id


def test_a_missing_folder_and_a_broken_one_are_refused_in_one_sentence(tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load(str(tmp_path / "nothing"))
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load(str(broken))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tiny_model: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(str(tmp_path / "pickled"))


def test_the_fingerprint_follows_the_weights(tiny_model: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert modeling.fingerprint(str(copy)) == modeling.fingerprint(tiny_model)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert modeling.fingerprint(str(copy)) != modeling.fingerprint(tiny_model)


def test_a_model_cast_before_saving_is_the_model_that_is_loaded_later(tiny_model: str, tmp_path: Path) -> None:
    model = load(tiny_model)
    modeling.save_policy(model, build_tokenizer(), tmp_path, torch.bfloat16)
    loaded = modeling.load_policy(str(tmp_path), torch.bfloat16, torch.device("cpu"))
    ids = torch.arange(4, 244)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, loaded(input_ids=ids).logits)
