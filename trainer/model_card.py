"""The card of a trained model: `final/README.md`, with the fields that model hubs read, filled from the run alone.

Nothing in it comes from a clock. What a run cannot know (licence, language, what the model is fit for) is said to be
unknown instead of guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import chat_template, report
from trainer.config import RunConfig, dump_run

TITLES = {
    "sft": "fine-tuned on demonstrations",
    "reward": "a reward model of human rankings",
    "dpo": "trained on human rankings (DPO)",
    "kto": "trained on acceptable and other answers (KTO)",
    "ppo": "trained against a reward model (PPO)",
    "rloo": "trained against a reward model (RLOO)",
}

LIMITS = (
    "The model follows the preferences of the people who judged its data, as far as the figures above show, and no "
    "further. Nothing here tests it for safety, for other languages or for other kinds of prompts. Its licence follows "
    "from the base model and the data, which the run does not know."
)


def text(run_dir: Path, config: RunConfig, summary: Mapping[str, Any]) -> str:
    """Return the card as Markdown with a head of YAML."""
    base = base_name(config.model)
    is_hub_id = base == config.model
    head: dict[str, Any] = {
        "library_name": "transformers",
        **({} if config.method == "reward" else {"pipeline_tag": "text-generation"}),
        **({"base_model": base} if is_hub_id else {}),
        "license": "unknown",
        "tags": ["plackett", config.method, "human-feedback", *(["lora"] if config.lora else [])],
    }
    parts = [
        f"# {base}, {TITLES.get(config.method, config.method)}",
        str(summary.get("headline", "")),
        "## Training",
        report.table(("what", "value"), [*_training(config, base), *_template(summary), *_options(config)]),
        "## Data",
        report.table(("what", "value"), _data(run_dir)) if _data(run_dir) else "The run's data has no manifest.",
    ]
    figures = [(report.words(key), report.cell(value)) for key, value in summary.items() if _is_figure(key, value)]
    if figures:
        parts += ["## Results", report.table(("measure", "value"), figures)]
    parts += ["## Use and limits", LIMITS]
    yaml = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in head.items())
    return f"---\n{yaml}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def base_name(model: str) -> str:
    """Return a hub id as it is, and of a folder its own name alone: where it lies is nobody's business."""
    path = Path(model)
    return path.name if path.is_absolute() or ":" in model else model


def _training(config: RunConfig, base: str) -> list[tuple[str, str]]:
    lora = (
        f"rank {config.lora.rank}, alpha {config.lora.alpha:g}, merged" if config.lora else "none, every weight trained"
    )
    return [
        ("method", config.method),
        ("base model", f"`{base}`"),
        ("adapters", lora),
        ("precision", config.precision),
        ("longest text", f"{config.max_length} tokens"),
        ("seed", str(config.seed)),
        *((name, version) for name, version in report.versions().items()),
    ]


def _template(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    if chat_template.KEY not in summary:
        return []
    digest = summary[chat_template.KEY]
    return [("chat template", f"sha256 `{digest[:16]}`" if digest else "none; paragraphs of User: and Assistant:")]


def _options(config: RunConfig) -> list[tuple[str, str]]:
    """Return the method's options; addresses of other models only by name."""
    found = [(name, _shown(value)) for name, value in _flat(dump_run(config)["options"])]
    return [(report.words(name), value) for name, value in found if value]


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value)
    if value is None or value == "":
        return ""
    return base_name(value) if isinstance(value, str) else report.cell(value)


def _flat(options: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found = []
    for name, value in options.items():
        found += (
            [(f"{name} {inner}", item) for inner, item in _flat(value)] if isinstance(value, dict) else [(name, value)]
        )
    return found


def _data(run_dir: Path) -> list[tuple[str, str]]:
    path = run_dir / "data" / "manifest.json"
    if not path.exists():
        return []
    manifest = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (name.removesuffix(".jsonl"), f"{facts.get('rows', '?')} rows, sha256 `{facts['sha256'][:16]}`")
        for name, facts in manifest.get("files", {}).items()
    ]
    if labelers := manifest.get("labelers"):
        rows.append(("labelers", str(len(labelers))))
    simulated = {name: count for name, count in manifest.get("simulated", {}).items() if count}
    if simulated:
        rows.append(("simulated", ", ".join(f"{count} {name}" for name, count in sorted(simulated.items()))))
    return rows


def _is_figure(key: str, value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number or (key.endswith("_interval") and isinstance(value, (list, tuple)) and len(value) == 2)
