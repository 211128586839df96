"""The mathematics of PPO against values worked out by hand, limit cases and gradients."""

import math

import pytest
import torch

from trainer import losses

YES, NO = True, False


def test_gae_of_three_tokens_by_hand() -> None:
    # gamma = 0.9, lambda = 0.5, gamma lambda = 0.45; rewards 0, 1, 2; values 0.5, 1.0, 1.5; nothing after the end.
    # delta_2 = 2   + 0         - 1.5 = 0.5      A_2 = 0.5
    # delta_1 = 1   + 0.9 * 1.5 - 1.0 = 1.35     A_1 = 1.35 + 0.45 * 0.5   = 1.575
    # delta_0 = 0   + 0.9 * 1.0 - 0.5 = 0.4      A_0 = 0.4  + 0.45 * 1.575 = 1.10875
    rewards = torch.tensor([[0.0, 1.0, 2.0]])
    values = torch.tensor([[0.5, 1.0, 1.5]])
    advantages, returns = losses.gae(rewards, values, torch.tensor([[YES, YES, YES]]), 0.9, 0.5)
    torch.testing.assert_close(advantages, torch.tensor([[1.10875, 1.575, 0.5]]))
    torch.testing.assert_close(returns, torch.tensor([[1.60875, 2.575, 2.0]]))


def test_gae_with_lambda_one_and_no_discount_is_reward_to_go_minus_value() -> None:
    rewards = torch.tensor([[1.0, -2.0, 4.0]])
    values = torch.tensor([[0.3, 0.2, 0.1]])
    advantages, returns = losses.gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), 1.0, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[3.0, 2.0, 4.0]]))
    torch.testing.assert_close(advantages, returns - values)


def test_gae_with_lambda_zero_is_the_one_step_error() -> None:
    rewards = torch.tensor([[0.0, 1.0]])
    values = torch.tensor([[0.5, 0.25]])
    advantages, _ = losses.gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), 1.0, 0.0)
    torch.testing.assert_close(advantages, torch.tensor([[-0.25, 0.75]]))


def test_nothing_after_the_end_token_flows_back() -> None:
    mask = torch.tensor([[NO, YES, YES, NO, NO]])
    rewards = torch.tensor([[0.0, 0.1, 1.0, 0.0, 0.0]])
    values = torch.tensor([[0.0, 0.2, 0.3, 0.0, 0.0]])
    clean = losses.gae(rewards, values, mask, 1.0, 0.95)
    dirty_rewards, dirty_values = rewards.clone(), values.clone()
    dirty_rewards[0, 3:] = 1e6
    dirty_values[0, 3:] = -1e6
    dirty_values[0, 0] = 1e6
    dirty = losses.gae(dirty_rewards, dirty_values, mask, 1.0, 0.95)
    for left, right in zip(clean, dirty, strict=True):
        assert torch.equal(left, right)
    assert clean[0][0, 0] == 0


def test_the_score_lands_on_the_end_token_and_the_penalty_on_every_token() -> None:
    # beta = 0.1; log-ratios 0.5, -0.2, 1.0 give -0.05, +0.02, -0.1; the score 3 is added at the last one.
    logps = torch.tensor([[9.0, -0.5, -1.2, -1.0, 9.0], [-1.0, -2.0, -3.0, -4.0, -5.0]])
    reference = torch.tensor([[0.0, -1.0, -1.0, -2.0, 0.0], [-1.0, -2.0, -3.0, -4.0, -5.0]])
    mask = torch.tensor([[NO, YES, YES, YES, NO], [NO, NO, NO, NO, YES]])
    rewards = losses.penalised_rewards(losses.kl_k1(logps, reference), torch.tensor([3.0, -1.0]), mask, 0.1)
    expected = torch.tensor([[0.0, -0.05, 0.02, 2.9, 0.0], [0.0, 0.0, 0.0, 0.0, -1.0]])
    torch.testing.assert_close(rewards, expected)


def test_rewards_sum_to_score_minus_beta_times_the_sequence_kl() -> None:
    generator = torch.Generator().manual_seed(3)
    logps, reference = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    mask = torch.arange(6).expand(4, 6) < torch.tensor([[2], [3], [6], [1]])
    scores = torch.randn(4, generator=generator)
    rewards = losses.penalised_rewards(logps - reference, scores, mask, 0.3)
    kl = ((logps - reference) * mask).sum(1)
    torch.testing.assert_close(rewards.sum(1), scores - 0.3 * kl)


def test_whitening_counts_valid_tokens_only() -> None:
    # Valid: 1, 3, 5; mean 3, variance (4 + 0 + 4) / 3 = 8/3; (5 - 3) / sqrt(8/3) = 1.2247449.
    x = torch.tensor([[1.0, 3.0, 999.0], [5.0, -999.0, 999.0]])
    mask = torch.tensor([[YES, YES, NO], [YES, NO, NO]])
    expected = torch.tensor([[-1.2247449, 0.0, 0.0], [1.2247449, 0.0, 0.0]])
    torch.testing.assert_close(losses.whiten(x, mask), expected, rtol=1e-5, atol=1e-6)


def test_whitening_equal_values_gives_zero_and_not_infinity() -> None:
    assert torch.equal(losses.whiten(torch.full((1, 3), 2.0), torch.ones(1, 3, dtype=torch.bool)), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "flows"),
    [
        (1.0, 2.0, -2.0, True),  # unchanged policy: -A
        (1.5, 1.0, -1.2, False),  # good and already much likelier: clipped at 1 + 0.2
        (0.5, 1.0, -0.5, True),  # good but less likely: not clipped, pulled back
        (0.5, -1.0, 0.8, False),  # bad and already unlikelier: clipped at 1 - 0.2
        (1.5, -1.0, 1.5, True),  # bad but likelier: not clipped, pushed down
    ],
)
def test_the_policy_loss_clips_on_the_side_that_would_gain(
    ratio: float, advantage: float, loss: float, flows: bool
) -> None:
    logps = torch.tensor([math.log(ratio)], requires_grad=True)
    value = losses.clipped_policy_loss(logps, torch.zeros(1), torch.tensor([advantage]), 0.2)
    torch.testing.assert_close(value.detach(), torch.tensor([loss]))
    (gradient,) = torch.autograd.grad(value.sum(), logps)
    # d(-A rho) / d log pi = -A rho where it flows.
    torch.testing.assert_close(gradient, torch.tensor([-advantage * ratio if flows else 0.0]))


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (0.1, 0.0, 1.0, 0.405, -0.9),  # within the clip: (0.1 - 1)^2 / 2
        (0.9, 0.0, 1.0, 0.32, 0.0),  # ran ahead: (0.2 - 1)^2 / 2 = 0.32 is larger than (0.9 - 1)^2 / 2, no gradient
        (-0.9, 0.0, 1.0, 1.805, -1.9),  # ran the wrong way: (-0.9 - 1)^2 / 2 is larger and pulls back
    ],
)
def test_the_value_loss_takes_the_worse_of_clipped_and_unclipped(
    value: float, old: float, target: float, loss: float, gradient: float
) -> None:
    values = torch.tensor([value], requires_grad=True)
    result = losses.clipped_value_loss(values, torch.tensor([old]), torch.tensor([target]), 0.2)
    torch.testing.assert_close(result.detach(), torch.tensor([loss]))
    torch.testing.assert_close(torch.autograd.grad(result.sum(), values)[0], torch.tensor([gradient]))


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.15),  # on target: unchanged
        (6.6, 0.15 * (1 + 0.1 * 256 / 10_000)),  # 10 % above
        (60.0, 0.15 * (1 + 0.2 * 256 / 10_000)),  # far above: the error is held at 0.2
        (0.0, 0.15 * (1 - 0.2 * 256 / 10_000)),
    ],
)
def test_the_kl_coefficient_follows_its_target(kl: float, expected: float) -> None:
    assert losses.adapted_kl_coefficient(0.15, kl, 6.0, 256, 10_000) == pytest.approx(expected, rel=1e-9)


def test_both_kl_estimators_meet_the_exact_kl_and_k3_is_never_negative() -> None:
    # Two tokens, pi = (0.7, 0.3), ref = (0.4, 0.6): KL = 0.7 ln 1.75 + 0.3 ln 0.5 = 0.1837869.
    policy, reference = torch.tensor([0.7, 0.3]).log(), torch.tensor([0.4, 0.6]).log()
    k1, k3 = losses.kl_k1(policy, reference), losses.kl_k3(policy, reference)
    weights = policy.exp()
    torch.testing.assert_close((weights * k1).sum(), torch.tensor(0.1837869), rtol=1e-5, atol=0.0)
    torch.testing.assert_close((weights * k3).sum(), torch.tensor(0.1837869), rtol=1e-5, atol=0.0)
    assert k1.min() < 0
    assert k3.min() >= 0


def test_k3_of_an_impossible_token_stays_finite() -> None:
    assert math.isfinite(float(losses.kl_k3(torch.tensor(-500.0), torch.tensor(0.0))))


def test_explained_variance_is_one_for_the_truth_and_zero_for_a_constant() -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0, 100.0]])
    mask = torch.tensor([[YES, YES, YES, NO]])
    assert losses.explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert losses.explained_variance(torch.zeros(1, 4), returns, mask) == pytest.approx(0.0)
    # Half of the way: R - V = 0.5, 1, 1.5; its variance is a quarter of that of R.
    assert losses.explained_variance(returns / 2, returns, mask) == pytest.approx(0.75)
    assert losses.explained_variance(returns, torch.ones(1, 4), mask) == 0.0


def test_k2_is_half_the_squared_log_ratio_and_its_gradient_is_that_of_the_kl() -> None:
    # l = 0.5 and -2: 0.125 and 2.
    torch.testing.assert_close(
        losses.kl_k2(torch.tensor([0.5, -1.0]), torch.tensor([0.0, 1.0])), torch.tensor([0.125, 2.0])
    )
    reference = torch.tensor([0.4, 0.6]).log()
    gradients = []
    for exact in (True, False):
        logits = torch.tensor([0.9, 0.1], requires_grad=True)
        policy = logits.log_softmax(dim=0)
        value = (
            policy.exp() * (policy - reference) if exact else policy.detach().exp() * losses.kl_k2(policy, reference)
        )
        gradients.append(torch.autograd.grad(value.sum(), logits)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_whitening_rewards_keeps_their_mean() -> None:
    # Valid: 1, 3, 5; standard deviation sqrt(8/3) = 1.6329932, mean 3: 3 - 1.2247449, 3, 3 + 1.2247449.
    x, mask = torch.tensor([[1.0, 3.0, 9.0], [5.0, 9.0, 9.0]]), torch.tensor([[YES, YES, NO], [YES, NO, NO]])
    expected = torch.tensor([[1.7752551, 3.0, 0.0], [4.2247449, 0.0, 0.0]])
    torch.testing.assert_close(losses.whiten(x, mask, shift_mean=False), expected, rtol=1e-5, atol=1e-6)


def test_an_ensemble_is_its_mean_its_worst_or_its_mean_less_what_it_is_unsure_of() -> None:
    # Means 2 and 0; variances ((1 + 1 + 0) / 3 = 2/3) and 0; 2 - 0.6 * 2/3 = 1.6.
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    for way, expected in (("mean", [2.0, 0.0]), ("worst", [1.0, 0.0]), ("uncertainty_weighted", [1.6, 0.0])):
        torch.testing.assert_close(losses.ensemble_score(scores, way, 0.6), torch.tensor(expected))
    one = torch.tensor([[1.5]])
    assert all(losses.ensemble_score(one, way, 0.6).item() == 1.5 for way in ("mean", "worst", "uncertainty_weighted"))


def test_importance_weights_are_ratios_up_to_their_cap() -> None:
    trainer, sampler = torch.tensor([0.5, 0.2, 0.9]).log(), torch.tensor([0.25, 0.4, 0.1]).log()
    torch.testing.assert_close(losses.importance_weights(trainer, sampler, 3.0), torch.tensor([2.0, 0.5, 3.0]))
    assert torch.equal(losses.importance_weights(trainer, sampler, None), torch.ones(3))


def test_importance_weights_make_a_stale_samplers_gradient_that_of_the_policy() -> None:
    # The sampler draws from mu = (0.5, 0.5), the policy is pi = (0.8, 0.2): E_mu[pi/mu A grad] = E_pi[A grad].
    advantages, stale = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.5])
    gradients = []
    for drawn_from_policy in (True, False):
        logits = torch.tensor([0.8, 0.2]).log().requires_grad_()
        logps = logits.log_softmax(dim=0)
        old = logps.detach()
        share = old.exp() if drawn_from_policy else stale
        weights = losses.importance_weights(old, share.log(), 10.0)
        loss = (share * weights * losses.clipped_policy_loss(logps, old, advantages, 0.2)).sum()
        gradients.append(torch.autograd.grad(loss, logits)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
