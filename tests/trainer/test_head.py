"""The output layer in one buffer says what the whole softmax says, and has its gradient."""

import pytest
import torch
from torch import nn

from trainer import head

ROWS, WIDTH, WORDS = 7, 5, 11


def case(dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an output layer, hidden states, targets and the gradient that comes back by log-probability."""
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, WORDS, bias=False).to(dtype)
    hidden = torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)
    return layer, hidden, torch.randint(WORDS, (ROWS,)), torch.randn(ROWS)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("kept", [0, 2, 100])
def test_values_and_gradients_are_those_of_the_whole_softmax(
    kept: int, rows: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "ROWS", rows)
    monkeypatch.setattr(head, "KEPT", kept * 4 * WORDS)
    layer, hidden, targets, by_logp = case()
    whole = (layer(hidden) / temperature).log_softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    wanted = torch.autograd.grad(whole, (hidden, layer.weight), by_logp)
    logps = head.token_logps(layer.weight, hidden, targets, temperature)
    found = torch.autograd.grad(logps, (hidden, layer.weight), by_logp)
    torch.testing.assert_close(logps, whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_frozen_layer_gets_no_gradient_and_hidden_states_get_the_same() -> None:
    layer, hidden, targets, by_logp = case()
    (wanted,) = torch.autograd.grad(head.token_logps(layer.weight, hidden, targets), hidden, by_logp)
    layer.requires_grad_(requires_grad=False)
    (found,) = torch.autograd.grad(head.token_logps(layer.weight, hidden, targets), hidden, by_logp)
    assert torch.equal(found, wanted)
    assert layer.weight.grad is None


def test_a_second_backward_pass_over_what_the_first_changed_is_refused() -> None:
    layer, hidden, targets, by_logp = case()
    logps = head.token_logps(layer.weight, hidden, targets)
    logps.backward(by_logp, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logps.backward(by_logp)


def test_as_much_is_kept_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "KEPT", 3 * 4 * WORDS + 1)
    layer, hidden, targets, _ = case()
    assert vars(head.token_logps(layer.weight, hidden, targets).grad_fn)["kept"] == 3


def test_values_are_the_same_to_the_last_bit_whether_or_not_a_gradient_is_wanted() -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(3000, 64, requires_grad=True), torch.randn(head.ROWS + 1, 64)
    targets = torch.randint(3000, (head.ROWS + 1,))
    learning = head.token_logps(weight, hidden, targets)
    with torch.no_grad():
        alone = head.token_logps(weight, hidden, targets)
    assert torch.equal(alone, learning)


def test_no_rows_give_a_gradient_of_zeros() -> None:
    layer, hidden, targets, by_logp = case()
    logps = head.token_logps(layer.weight, hidden[:0], targets[:0])
    by_hidden, by_weight = torch.autograd.grad(logps, (hidden, layer.weight), by_logp[:0])
    assert not by_hidden.any()
    assert not by_weight.any()


def test_products_are_in_the_precision_of_autocast_and_gradients_in_that_of_the_weights() -> None:
    layer, hidden, targets, by_logp = case()
    exact = head.token_logps(layer.weight, hidden, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = head.token_logps(layer.weight, hidden, targets)
        whole = layer(hidden).float().log_softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(rounded, whole, rtol=1e-6, atol=1e-6)
    assert not torch.equal(rounded, exact)
    rounded.backward(by_logp)
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype is torch.float32


def test_under_autocast_the_gradient_of_the_weights_is_rounded_once_and_not_with_every_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layer, hidden = nn.Linear(16, 32, bias=False), torch.randn(4096, 16)
    targets, by_logp = torch.randint(32, (4096,)), torch.rand(4096)
    (exact,) = torch.autograd.grad(head.token_logps(layer.weight, hidden, targets), layer.weight, by_logp)

    def error(rows: int) -> float:
        monkeypatch.setattr(head, "ROWS", rows)
        monkeypatch.setattr(head, "KEPT", 0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logps = head.token_logps(layer.weight, hidden, targets)
        (found,) = torch.autograd.grad(logps, layer.weight, by_logp)
        return float((found - exact).norm() / exact.norm())

    assert error(8) < 1.2 * error(4096)


def test_a_layer_with_a_bias_or_of_another_kind_is_not_plain() -> None:
    assert head.is_plain(nn.Linear(2, 3, bias=False))
    assert not head.is_plain(nn.Linear(2, 3))
    assert not head.is_plain(nn.Sequential(nn.Linear(2, 3, bias=False)))
