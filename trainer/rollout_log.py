"""What PPO and RLOO tell of an iteration: its figures, some of its texts, and the summary of the whole run."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer import frontier, losses, report
from trainer.brakes import Brakes
from trainer.config import RolloutOptions
from trainer.episodes import Episodes, Measures
from trainer.jsonl import append_jsonl, read_jsonl, write_jsonl

ROLLOUT_TEXTS = 4


def describe(episodes: Episodes, measures: Measures, objective: torch.Tensor, cap: float | None) -> dict[str, float]:
    """Return an iteration's figures: rewards, KL (nats a sequence), entropy (nats a token), lengths, the sampler's gap.

    `kl` is k1 summed over each answer, the one estimate that is unbiased for the whole sequence. `truncated_…` counts,
    of what the reward models read, the prompts that lost their beginning and the answers that lost their end.
    """
    mask, count = episodes.mask, len(episodes.answers)
    lengths = mask.sum(dim=1)
    kl = (losses.kl_k1(measures.logps, measures.reference_logps) * mask).sum(dim=1)
    k3 = (losses.kl_k3(measures.logps, measures.reference_logps) * mask).sum(dim=1)
    old, sampled = measures.logps[mask], measures.sampler_logps[mask]
    figures = {
        "reward": episodes.scores.mean().item(),
        "objective": objective.mean().item(),
        "kl": kl.mean().item(),
        "kl_k3": k3.mean().item(),
        "kl_standard_error": kl.std(correction=0).item() / count**0.5,
        "entropy": sum(answer.entropy * len(answer.ids) for answer in episodes.answers) / int(lengths.sum()),
        "response_length": lengths.float().mean().item(),
        "ended": sum(answer.finish_reason == "stop" for answer in episodes.answers) / count,
        "sampler_gap": (sampled - old).abs().mean().item(),
        "truncated_prompts": episodes.cut[0],
        "truncated_completions": episodes.cut[1],
        "importance_weight": losses.importance_weights(old, sampled, cap).mean().item(),
    }
    if episodes.judged.shape[1] > 1:
        figures["reward_uncertainty"] = episodes.judged.std(dim=1, correction=0).mean().item()
    return figures


def write_texts(run_dir: Path, episodes: Episodes, measures: Measures, iteration: int) -> None:
    """Append a few of the iteration's answers to `rollouts.jsonl`."""
    kl = ((measures.logps - measures.reference_logps) * episodes.mask).sum(dim=1)
    each = len(episodes.answers) // len(episodes.prompts)
    rows: list[dict[str, object]] = [
        {
            "iteration": iteration,
            "prompt_id": episodes.prompts[n // each].id,
            "text": episodes.texts[n],
            "tokens": len(episodes.answers[n].ids),
            "finish_reason": episodes.answers[n].finish_reason,
            "reward": episodes.scores[n].item(),
            "kl": kl[n].item(),
            "weights": episodes.answers[n].version,
        }
        for n in range(min(ROLLOUT_TEXTS, len(episodes.texts)))
    ]
    append_jsonl(run_dir / "rollouts.jsonl", rows)


def cut_texts(run_dir: Path, done: int) -> None:
    """Drop the answers of iterations after `done`, which will be sampled again."""
    path = run_dir / "rollouts.jsonl"
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(line for line in lines if line.endswith(b"\n")))
        write_jsonl(path, [row for _, row in read_jsonl(path) if row["iteration"] <= done])


def summarise(run_dir: Path, options: RolloutOptions, brakes: Brakes) -> dict[str, object]:
    """Return the report's summary: where reward and KL began and where they ended."""
    rows = report.read_metrics(run_dir)
    tail = rows[-max(1, len(rows) // 5) :]
    end = {key: sum(row[key] for row in tail) / len(tail) for key in ("reward", "kl", "response_length", "ended")}
    last = len(rows)
    kept = brakes.best_iteration if brakes.spent or options.keep == "best" else None
    headline = (
        f"In {last} iterations the reward went from {rows[0]['reward']:.2f} to {end['reward']:.2f} "
        f"at a KL of {end['kl']:.2f} nats a sequence."
    )
    if kept is not None:
        row = rows[kept - 1]
        headline += (
            f" Kept are the weights that iteration {kept} began with: reward {row['reward']:.2f}, KL {row['kl']:.2f}."
        )
    if brakes.spent:
        headline += (
            f" The run ended there because its KL went beyond {options.kl_limit:g} nats {brakes.roll_backs} times."
        )
    fits = frontier.summarise(rows)
    return {
        "headline": headline,
        "episodes": last * options.optim.batch_size,
        "first_reward": rows[0]["reward"],
        **{f"last_{key}": value for key, value in end.items()},
        "kl_coefficient": rows[-1]["kl_coefficient"],
        # A reward model with other tokens may have to cut what the policy reads whole. Older metrics do not say.
        **{key: sum(row.get(key, 0) for row in rows) for key in ("truncated_prompts", "truncated_completions")},
        "roll_backs": brakes.roll_backs,
        **({} if kept is None else {"kept_iteration": kept}),
        **({"reward_over_sqrt_kl": fits} if fits else {}),
    }
