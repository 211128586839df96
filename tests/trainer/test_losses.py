"""The losses against numbers worked out by hand, at their limits, and their gradients."""

import math

import pytest
import torch

from trainer.losses import (
    cdpo_loss,
    davidson_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    pairwise_reward_loss,
    plackett_luce_loss,
    prompt_mean_weights,
    sft_loss,
)


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


def test_a_margin_asks_for_a_larger_difference() -> None:
    # Differences 1 and 3 with margins 1 and 0: log(1 + e^-0) = 0.6931472 and log(1 + e^-3) = 0.0485874; mean 0.3708673.
    scores, pairs = torch.tensor([2.0, 1.0, -1.0]), torch.tensor([[0, 1], [0, 2]])
    loss = pairwise_reward_loss(scores, pairs, torch.full((2,), 1 / 2), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(0.3708673, rel=1e-6)


def test_plackett_luce_loss_of_three_ranked_answers_by_hand() -> None:
    # Scores ln 4, ln 3, ln 1: P(first of all) = 4/8, P(second of the rest) = 3/4. -ln(3/8) / 2 = 0.4904146.
    scores = torch.tensor([4.0, 3.0, 1.0]).log().requires_grad_()
    contenders = torch.tensor([[True, True, True], [False, True, True]])
    loss = plackett_luce_loss(scores, torch.tensor([0, 1]), contenders, torch.full((2,), 1 / 2))
    assert loss.item() == pytest.approx(0.4904146, rel=1e-6)
    loss.backward()
    # d/dr of the first choice is P - onehot = (-1/2, 3/8, 1/8), of the second (0, -1/4, 1/4); half of the sum.
    torch.testing.assert_close(scores.grad, torch.tensor([-1 / 4, 1 / 16, 3 / 16]))


def test_plackett_luce_of_two_answers_is_the_pairwise_loss() -> None:
    scores = torch.tensor([0.3, 1.1])
    listwise = plackett_luce_loss(scores, torch.tensor([1]), torch.ones(1, 2, dtype=torch.bool), torch.ones(1))
    torch.testing.assert_close(listwise, pairwise_reward_loss(scores, torch.tensor([[1, 0]]), torch.ones(1)))


def test_davidson_loss_of_a_win_and_a_tie_by_hand() -> None:
    # p = 4 and 1, nu = 1/2: sqrt(4 * 1) nu = 1, so win 4/6 and tie 1/6. -ln(4/6) = 0.4054651, -ln(1/6) = 1.7917595.
    scores, pairs = torch.tensor([math.log(4.0), 0.0]), torch.tensor([[0, 1], [0, 1]])
    log_nu = torch.tensor(math.log(0.5), requires_grad=True)
    loss = davidson_loss(scores, pairs, torch.tensor([False, True]), torch.ones(2), log_nu)
    assert loss.item() == pytest.approx(0.4054651 + 1.7917595, rel=1e-6)
    loss.backward()
    # d/d log nu of a win is P(tie) = 1/6, of a tie P(tie) - 1 = -5/6.
    assert log_nu.grad.item() == pytest.approx(-4 / 6, rel=1e-6)


def test_davidson_without_ties_is_the_pairwise_loss() -> None:
    scores, pairs = torch.tensor([0.3, 1.1]), torch.tensor([[1, 0]])
    never = davidson_loss(scores, pairs, torch.tensor([False]), torch.ones(1), torch.tensor(-50.0))
    torch.testing.assert_close(never, pairwise_reward_loss(scores, pairs, torch.ones(1)))


def test_dpo_loss_of_one_pair_by_hand() -> None:
    # Log-ratios 2 and -1, beta 0.5: rewards 1 and -0.5, loss log(1 + e^-1.5) = 0.2014133.
    assert dpo_loss(torch.tensor([2.0]), torch.tensor([-1.0]), beta=0.5).item() == pytest.approx(0.2014133, rel=1e-6)


def test_dpo_loss_where_the_policy_is_its_reference_is_ln_2_with_gradient_beta_over_2() -> None:
    ratios = torch.zeros(2, requires_grad=True)
    loss = dpo_loss(ratios[:1], ratios[1:], beta=0.1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    torch.testing.assert_close(ratios.grad, torch.tensor([-0.05, 0.05]))


def test_cdpo_loss_weighs_the_pair_and_the_pair_turned_round() -> None:
    # As above with 10 % wrong labels: 0.9 * 0.2014133 + 0.1 * log(1 + e^1.5) = 0.9 * 0.2014133 + 0.1 * 1.7014133.
    loss = cdpo_loss(torch.tensor([2.0]), torch.tensor([-1.0]), beta=0.5, label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.3514133, rel=1e-6)


def test_cdpo_is_least_where_the_reward_says_what_share_of_labels_is_right() -> None:
    # sigma(beta h) = 0.9 at beta h = ln 9: there the gradient is 0.
    chosen = torch.tensor([math.log(9.0) / 0.5], requires_grad=True)
    cdpo_loss(chosen, torch.zeros(1), beta=0.5, label_smoothing=0.1).sum().backward()
    assert chosen.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_ipo_loss_asks_for_a_gap_of_half_of_one_over_beta() -> None:
    # beta 0.1 asks for 5 nats: a gap of 3 costs 4, a gap of 5 nothing, none at all 25.
    losses = ipo_loss(torch.tensor([2.0, 4.0, 0.0]), torch.tensor([-1.0, -1.0, 0.0]), beta=0.1)
    torch.testing.assert_close(losses, torch.tensor([4.0, 0.0, 25.0]))


def test_kto_loss_of_a_good_and_a_bad_answer_by_hand() -> None:
    # beta 0.5, z0 = 1: a good answer at h = 3 is worth sigma(1) = 0.7310586, a bad one at h = -3 sigma(2) = 0.8807971.
    losses = kto_loss(torch.tensor([3.0, -3.0]), torch.tensor([True, False]), torch.tensor(1.0), beta=0.5)
    torch.testing.assert_close(losses, torch.tensor([1 - 0.7310586, 1 - 0.8807971]), rtol=1e-5, atol=0)


def test_kto_loss_where_the_policy_is_its_reference_is_one_half_with_gradient_beta_over_4() -> None:
    ratios = torch.zeros(2, requires_grad=True)
    losses = kto_loss(ratios, torch.tensor([True, False]), torch.tensor(0.0), beta=0.2)
    losses.sum().backward()
    assert losses.tolist() == [0.5, 0.5]
    torch.testing.assert_close(ratios.grad, torch.tensor([-0.05, 0.05]))
