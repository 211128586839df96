"""The losses and the arithmetic around them: tensors in, tensors out. Letters are the papers', beside each equation.

Log-probabilities are float32 and in nats. Every mean is over a count that the caller knows before it splits a step
into micro-batches; so the losses here are weighted sums, and the parts of a step add up to its mean.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def sft_loss(logps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return -sum_t w_t log p(y_t), the cross-entropy of completion tokens.

    `logps` and `weights` are (M,). With w_t = 1 / (completion tokens of the whole step) this is the mean over tokens.
    """
    return -(logps * weights).sum()


def prompt_mean_weights(
    pair_weights: torch.Tensor, prompt_of_pair: torch.Tensor, prompt_weights: torch.Tensor
) -> torch.Tensor:
    """Return (P,) weights that make a sum over pairs the mean over prompts of each prompt's mean over its pairs.

    `pair_weights` (P,) and `prompt_weights` (B,) are positive; `prompt_of_pair` (P,) int64 maps pairs to prompts.
    The result adds up to 1. Without the inner mean a prompt with K = 9 would weigh 36 times one with K = 2
    (InstructGPT, 3.5: a prompt's comparisons are one batch element).
    """
    totals = torch.zeros_like(prompt_weights).index_add(0, prompt_of_pair, pair_weights)
    return pair_weights * (prompt_weights / totals)[prompt_of_pair] / prompt_weights.sum()


# --- Rankings. N answers with scores r, P pairs (w, l) of their numbers, C choices; float32. --------------------------


def pairwise_reward_loss(
    scores: torch.Tensor, pairs: torch.Tensor, weights: torch.Tensor, margins: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Return -sum_(w,l) weight * log sigma(r_w - r_l - m), the ranking loss of InstructGPT (equation 1).

    `scores` (N,) holds one score r per completion, `pairs` (P, 2) int64 the indexes (w, l) of the better and the worse
    completion, `weights` (P,) comes from `prompt_mean_weights`. Ties are no pairs. `margins` (P,) ask for more between
    answers that labelers found far apart (Llama 2, 3.2.2).
    """
    better, worse = scores.float()[pairs].unbind(dim=1)
    return -(weights * logsigmoid(better - worse - margins)).sum()


def plackett_luce_loss(
    scores: torch.Tensor, chosen: torch.Tensor, contenders: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return -sum_c weight_c (r_chosen - log sum_{j in contenders} exp r_j): a ranking as choices of the best left.

    `chosen` (C,) int64, `contenders` (C, N) bool with the chosen one among them, `weights` (C,). For a full ranking
    these are K - 1 choices (Plackett 1975, Luce 1959); for two answers it is the pairwise loss.
    """
    scores = scores.float()
    among = scores.expand_as(contenders).masked_fill(~contenders, float("-inf"))
    return -(weights * (scores[chosen] - among.logsumexp(dim=1))).sum()


def davidson_loss(
    scores: torch.Tensor, pairs: torch.Tensor, tied: torch.Tensor, weights: torch.Tensor, log_nu: torch.Tensor
) -> torch.Tensor:
    """Return -sum weight * log P(outcome) where answers may tie (Davidson 1970, equation 2.2).

    With p = exp(r): P(i beats j) = p_i / (p_i + p_j + nu sqrt(p_i p_j)) and P(tie) = nu sqrt(p_i p_j) / (the same).
    `tied` (P,) bool says which pairs are ties; `log_nu`, one number, is learned: ties are as likely as labelers make
    them.
    """
    first, second = scores.float()[pairs].unbind(dim=1)
    tie = log_nu + (first + second) / 2
    total = torch.stack([first, second, tie]).logsumexp(dim=0)
    return -(weights * (torch.where(tied, tie, first) - total)).sum()


# --- Direct preference optimisation. Log-ratios are log pi(y) - log pi_ref(y) of whole completions; nats, float32. ----


def dpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Return -log sigma(beta (h_w - h_l)) for each pair (Rafailov et al. 2023, equation 7): ln 2 where pi = pi_ref.

    `chosen` and `rejected` are log-ratios h (P,). beta h is the implicit reward of an answer.
    """
    return -logsigmoid(beta * (chosen - rejected))


def cdpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float, label_smoothing: float) -> torch.Tensor:
    """Return DPO's loss where a label is wrong with probability eps (Mitchell, "A note on DPO with noisy preferences").

    It is (1 - eps) times the loss of the pair plus eps times the loss of the pair turned round.
    """
    right, wrong = dpo_loss(chosen, rejected, beta), dpo_loss(rejected, chosen, beta)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def ipo_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Return (h_w - h_l - 1 / (2 beta))^2 for each pair (Azar et al. 2023, equation 17): a gap, and no more."""
    return (chosen - rejected - 1 / (2 * beta)).square()


def kto_loss(ratios: torch.Tensor, desirable: torch.Tensor, baseline: torch.Tensor, beta: float) -> torch.Tensor:
    """Return 1 - v for each answer flagged good or bad by itself (Ethayarajh et al. 2024, equation 8, lambda = 1).

    `ratios` (N,) are log-ratios h, `desirable` (N,) bool, `baseline` the policy's KL from its reference z0, one number
    without a gradient. v is sigma(beta (h - z0)) of a good answer and sigma(beta (z0 - h)) of a bad one.
    """
    sign = torch.where(desirable, 1.0, -1.0)
    return 1 - torch.sigmoid(beta * sign * (ratios - baseline))


# --- PPO (Schulman et al. 2017) with a KL penalty (Ziegler et al. 2019). N answers, T positions; float32. -----------


def ensemble_score(scores: torch.Tensor, way: str, uncertainty_coefficient: float = 0.0) -> torch.Tensor:
    """Return one score (N,) of the M judges' scores (N, M), each normalised (Coste et al. 2023, section 3).

    `mean`; `worst`, the least of them; `uncertainty_weighted`, the mean less a multiple of their variance.
    """
    if way == "worst":
        return scores.amin(dim=1)
    mean = scores.mean(dim=1)
    return mean - uncertainty_coefficient * scores.var(dim=1, correction=0) if way == "uncertainty_weighted" else mean


def penalised_rewards(
    kl: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor, kl_coefficient: float
) -> torch.Tensor:
    """Return the reward (N, T) of each token: r_t = -beta kl_t, plus the score at the end (Ouyang et al. 2022, 3.5).

    `kl` (N, T) estimates each token's KL, `scores` (N,) judge whole answers, `mask` (N, T) is True on the answer. The
    end is the last True of each row. Outside the mask the reward is 0.
    """
    rewards = torch.where(mask, -kl_coefficient * kl, 0.0)
    positions = torch.arange(mask.shape[1], device=mask.device)
    end = torch.where(mask, positions, -1).amax(dim=1)
    return rewards.scatter_add(1, end.clamp(min=0).unsqueeze(1), scores.unsqueeze(1))


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, discount: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns (N, T) by generalised advantage estimation (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, with V and A zero after the last True
    of `mask`: an answer ends there, and nothing behind it flows back. Returns are A + V. Outside the mask all is 0.
    """
    advantages = torch.zeros_like(values)
    running = next_value = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        valid = mask[:, t]
        delta = rewards[:, t] + discount * next_value - values[:, t]
        running = torch.where(valid, delta + discount * gae_lambda * running, 0.0)
        next_value = torch.where(valid, values[:, t], 0.0)
        advantages[:, t] = running
    return advantages, torch.where(mask, advantages + values, 0.0)


def whiten(x: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True) -> torch.Tensor:
    """Return `x` (N, T) with variance 1 over the True positions of `mask`, and 0 elsewhere.

    The mean there becomes 0, or stays what it was: rewards must not change their sign.
    """
    variance, mean = torch.var_mean(x[mask], correction=0)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)


def importance_weights(logps: torch.Tensor, sampler_logps: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Return min(pi / mu, cap) for each token drawn from mu, the sampler's distribution, where pi was to be sampled.

    Truncated importance sampling (Ionides 2008). `cap` None returns 1 everywhere.
    """
    return torch.ones_like(logps) if cap is None else torch.exp(logps - sampler_logps).clamp(max=cap)


def group_advantages(rewards: torch.Tensor, way: str) -> torch.Tensor:
    """Return the advantage (G, K) of each of K answers over the other answers to its prompt.

    `leave_one_out`: r - mean of the others (Kool et al. 2019), unbiased; `group_mean`: r - mean of all, which is
    (K - 1) / K of that; `group_normalised`: the latter over the group's standard deviation (GRPO, equation 3).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    count = rewards.shape[1]
    if way == "leave_one_out":
        return centred * count / (count - 1)
    return centred / (rewards.std(dim=1, keepdim=True) + 1e-4) if way == "group_normalised" else centred


def clipped_policy_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, clip_ratio: float
) -> torch.Tensor:
    """Return max(-A rho, -A clip(rho, 1 - eps, 1 + eps)) for each token, rho = pi / pi_old (PPO, eq. 7)."""
    ratio = torch.exp(logps - old_logps)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_ratio, 1 + clip_ratio))


def value_loss(values: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """Return (V - R)^2 / 2 for each token."""
    return 0.5 * (values - returns).square()


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_value: float
) -> torch.Tensor:
    """Return max((V - R)^2, (V_clip - R)^2) / 2 for each token, V_clip at most `clip_value` from the old value."""
    clipped = old_values + (values - old_values).clamp(-clip_value, clip_value)
    return torch.maximum(value_loss(values, returns), value_loss(clipped, returns))


def adapted_kl_coefficient(coefficient: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """Return beta (1 + e n / horizon), e = kl / target - 1 within +-0.2 (Ziegler et al. 2019, 2.2).

    `kl` is in nats a sequence, measured on the last `episodes` (n) answers.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * episodes / horizon)


def kl_k1(logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """Return l = log pi - log pi_ref for each token of an answer drawn from pi: unbiased, may be below 0.

    The estimators k1, k2 and k3 are Schulman's ("Approximating KL divergence", 2020).
    """
    return logps - reference_logps


def kl_k2(logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """Return l^2 / 2 for each token: biased, never below 0; its gradient is on average that of the KL itself."""
    return (logps - reference_logps).square() / 2


def kl_k3(logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """Return exp(-l) - 1 + l for each token: unbiased and never below 0; l is kept within +-10 against overflow."""
    l = (logps - reference_logps).clamp(-10.0, 10.0)
    return torch.expm1(-l) + l


KL_ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """Return 1 - Var(R - V) / Var(R) over the True positions: 1 is perfect, 0 no better than a constant."""
    variance = torch.var(returns[mask], correction=0)
    if variance == 0:
        return 0.0
    return float(1.0 - torch.var((returns - values)[mask], correction=0) / variance)
