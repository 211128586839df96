"""Norms in fewer passes say what transformers' say, forwards and backwards; others are left alone."""

import pytest
import torch
import transformers
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from trainer import norms

WIDTH = 24


def norm() -> nn.Module:
    torch.manual_seed(0)
    module = LlamaRMSNorm(WIDTH, eps=1e-3)
    nn.init.normal_(module.weight)
    return module


def both(module: nn.Module, states: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what the module says and its gradients by states and weight."""
    states = states.clone().requires_grad_()
    said = module(states)
    return said, *torch.autograd.grad(said, (states, module.weight), gradient)


def test_values_and_gradients_are_those_of_the_norm_as_it_was() -> None:
    module = norm()
    states, gradient = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)
    wanted = both(module, states, gradient)
    assert norms.install(nn.ModuleList([module])) == 1
    found = both(module, states, gradient)
    assert "_RootMeanSquare" in type(module(states.requires_grad_()).grad_fn).__name__
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_differences() -> None:
    weight, states = torch.randn(4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    arguments = (states.requires_grad_(), weight.requires_grad_(), 1e-3)
    assert torch.autograd.gradcheck(norms._RootMeanSquare.apply, arguments)


def test_a_frozen_weight_gets_no_gradient_and_states_get_the_same() -> None:
    module, states, gradient = norm(), torch.randn(5, WIDTH), torch.randn(5, WIDTH)
    norms.install(nn.ModuleList([module]))
    _, wanted, _ = both(module, states, gradient)
    module.requires_grad_(requires_grad=False)
    states.requires_grad_()
    (found,) = torch.autograd.grad(module(states), states, gradient)
    assert torch.equal(found, wanted)


def test_states_and_weights_in_bfloat16_get_what_the_norm_itself_says() -> None:
    module = norm().to(torch.bfloat16)
    states = torch.randn(5, WIDTH, dtype=torch.bfloat16)
    wanted = module(states)
    norms.install(nn.ModuleList([module]))
    assert torch.equal(module(states), wanted)


@pytest.mark.parametrize("other", [Gemma3RMSNorm(WIDTH), nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)])
def test_a_norm_of_another_kind_is_left_as_it_is(other: nn.Module) -> None:
    assert norms.install(nn.ModuleList([other])) == 0


def test_a_norm_that_says_something_else_is_left_as_it_is() -> None:
    class OneMoreRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) + hidden_states

    assert norms.install(nn.ModuleList([OneMoreRMSNorm(WIDTH)])) == 0


def test_a_model_with_them_saves_and_learns_as_before() -> None:
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=20, **size)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.arange(12)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    assert norms.install(model.base_model) == 5
    names = set(model.state_dict())
    model(input_ids=ids, labels=ids).loss.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, wanted[name], rtol=1e-4, atol=1e-6)
    assert set(model.state_dict()) == names
