"""The losses against numbers worked out by hand, at their limits, and their gradients."""

import math

import pytest
import torch

from trainer.losses import dpo_loss, pairwise_reward_loss, prompt_mean_weights, sft_loss


def test_sft_loss_weighs_each_token() -> None:
    # Two tokens of one answer at weight 1/4 each and one of another at 1/2: (1 + 2) / 4 + 3 / 2 = 2.25.
    loss = sft_loss(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([0.25, 0.25, 0.5]))
    assert loss.item() == pytest.approx(2.25, rel=1e-6)


def test_every_prompt_weighs_the_same_whatever_its_number_of_pairs() -> None:
    # Prompt 0 has three pairs, prompt 1 has one: 1/3 * 1/2 each, and 1/2.
    weights = prompt_mean_weights(torch.ones(4), torch.tensor([0, 0, 0, 1]), torch.ones(2))
    torch.testing.assert_close(weights, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))


def test_weights_of_pairs_and_prompts_are_kept_and_add_up_to_one() -> None:
    # Prompt 0 (weight 3): pairs 1 and 3 of 4. Prompt 1 (weight 1): its only pair. 3/4 * 1/4, 3/4 * 3/4, 1/4.
    weights = prompt_mean_weights(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(weights, torch.tensor([3 / 16, 9 / 16, 4 / 16]))


def test_pairwise_loss_of_three_ranked_answers_by_hand() -> None:
    scores = torch.tensor([2.0, 1.0, -1.0])
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    # Differences 1, 3, 2: -log sigma = log(1 + e^-d) = 0.3132617, 0.0485874, 0.1269280; their mean is 0.1629257.
    loss = pairwise_reward_loss(scores, pairs, torch.full((3,), 1 / 3))
    assert loss.item() == pytest.approx(0.1629257, rel=1e-6)


def test_pairwise_loss_of_equal_scores_is_ln_2_and_pushes_them_apart() -> None:
    scores = torch.zeros(2, requires_grad=True)
    loss = pairwise_reward_loss(scores, torch.tensor([[1, 0]]), torch.ones(1))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    # d/dr_w of -log sigma(0) is -(1 - sigma(0)) = -1/2.
    torch.testing.assert_close(scores.grad, torch.tensor([0.5, -0.5]))


def test_pairwise_loss_stays_finite_where_the_ranking_is_badly_wrong() -> None:
    loss = pairwise_reward_loss(torch.tensor([0.0, 200.0]), torch.tensor([[0, 1]]), torch.ones(1))
    assert loss.item() == pytest.approx(200.0, rel=1e-6)


def test_pairwise_loss_of_bfloat16_scores_is_computed_in_float32() -> None:
    scores = torch.tensor([1.0, 0.5], dtype=torch.bfloat16)
    # log(1 + e^-0.5) = 0.4740770; bfloat16 would give 0.4746.
    loss = pairwise_reward_loss(scores, torch.tensor([[0, 1]]), torch.ones(1))
    assert loss.item() == pytest.approx(0.4740770, rel=1e-6)


def test_dpo_loss_of_one_pair_by_hand() -> None:
    # Log-ratios 2 and -1, beta 0.5: rewards 1 and -0.5, loss log(1 + e^-1.5) = 0.2014133.
    losses, chosen, rejected = dpo_loss(
        torch.tensor([-10.0]), torch.tensor([-21.0]), torch.tensor([-12.0]), torch.tensor([-20.0]), beta=0.5
    )
    assert losses.item() == pytest.approx(0.2014133, rel=1e-6)
    assert (chosen.item(), rejected.item()) == (1.0, -0.5)


def test_dpo_loss_where_the_policy_is_its_reference_is_ln_2_with_gradient_beta_over_2() -> None:
    policy = torch.tensor([-7.0, -3.0], requires_grad=True)
    losses, _, _ = dpo_loss(policy[:1], policy[1:], torch.tensor([-7.0]), torch.tensor([-3.0]), beta=0.1)
    losses.sum().backward()
    assert losses.item() == pytest.approx(math.log(2), rel=1e-6)
    torch.testing.assert_close(policy.grad, torch.tensor([-0.05, 0.05]))
