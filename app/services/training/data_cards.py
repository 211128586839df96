"""The data card of a snapshot: what a person should know before using it, in Markdown, from its manifest alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.services.projects.guidelines import IMPORTED_VERSION

_KINDS = (("prompts", "Prompts"), ("comparisons", "Rankings"), ("demonstrations", "Demonstrations"))
_WORDS = {kind: title.lower() for kind, title in _KINDS}
_ORIGINS = {
    "task": "tasks of ranking",
    "edit": "edits beside their originals",
    "chat": "live chats",
    "adjudication": "adjudications by a reviewer",
    "import": "imports of rankings made elsewhere",
}
_JUDGES = {"human": "people", "simulated": "simulated labelers", "ai": "models"}


def markdown(manifest: Mapping[str, Any], sha256: str) -> str:
    """Return the card. Older manifests hold less, and their cards say less."""
    sections = (
        _summary(manifest, sha256),
        _collection(manifest),
        _contents(manifest),
        _labelers(manifest),
        _cautions(manifest),
    )
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _summary(manifest: Mapping[str, Any], sha256: str) -> list[str]:
    lines = [
        "# Data card",
        "",
        f"Frozen human preferences, addressed by their content: sha256 `{sha256}`.",
        "",
        "| kind | all | to train on | held out |",
        "|---|---:|---:|---:|",
    ]
    for kind, title in _KINDS:
        split = manifest["splits"].get(kind, {})
        rows = manifest["files"][f"{kind}.jsonl"]["rows"]
        lines.append(f"| {title} | {rows:,} | {split.get('train', 0):,} | {split.get('held_out', 0):,} |")
    held_out = 100 * manifest["held_out_fraction"]
    why = "A prompt's side comes from a hash of its text: it is the same in every snapshot, and no prompt is on both."
    return [*lines, "", f"{held_out:.0f} % of the prompts are held out. {why}"]


def _collection(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["## How it was made", ""]
    for name, words, what in (("judges", _JUDGES, "judged by"), ("origins", _ORIGINS, "from")):
        found = manifest.get(name)
        if found:
            lines.append(f"- {what.capitalize()} {_counts((words.get(key, key), n) for key, n in found.items())}.")
    versions = manifest["guideline_versions"]
    known = manifest.get("guidelines", {})
    for version, count in sorted(versions.items(), key=lambda item: int(item[0])):
        if int(version) == IMPORTED_VERSION:
            lines.append(f"- {_answers(count)} made elsewhere, under guidelines that are not known here.")
            continue
        sha256 = known.get(version, {}).get("sha256")
        lines.append(
            f"- {_answers(count)} under version {version} of the guidelines"
            + (f" (sha256 `{sha256}`)." if sha256 else ".")
        )
    for dataset, found in manifest.get("datasets", {}).items():
        counts = {"comparisons": found} if isinstance(found, int) else found  # rankings alone were counted once
        lines.append(f"- Imported from {dataset}: {_counts((_WORDS[kind], n) for kind, n in counts.items())}.")
    lines.append(
        "- Left out: what was taken back, replaced by a later answer, not counted because it came late, set aside by a "
        "quarantine, and tasks whose answer was known beforehand."
    )
    adjudicated = manifest.get("adjudicated", {})
    if adjudicated.get("comparisons"):
        lines.append(
            f"- {adjudicated['comparisons']:,} rankings are a reviewer's verdict and stand for "
            f"{adjudicated['rankings_replaced']:,} of labelers who disagreed."
        )
    return lines


def _contents(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["## What is in it", ""]
    sizes, holds = manifest.get("ranked_answers", {}), manifest.get("rankings_hold", {})
    if sizes:
        ranked = sorted((int(size), count) for size, count in sizes.items())
        lines.append(f"- Ranked answers to a ranking: {_counts((str(size), count) for size, count in ranked)}.")
    if holds:
        lines.append(f"- Of the rankings {_counts(holds.items())}.")
    lines += ["", "| file | lines | bytes | sha256 |", "|---|---:|---:|---|"]
    lines += [
        f"| {name} | {facts['rows']:,} | {facts['bytes']:,} | `{facts['sha256']}` |"
        for name, facts in sorted(manifest["files"].items())
    ]
    for name, columns in sorted(manifest.get("columns", {}).items()):
        lines += ["", f"`{name}`: " + ", ".join(f"`{key}` {what}" for key, what in sorted(columns.items())) + "."]
    return lines


def _labelers(manifest: Mapping[str, Any]) -> list[str]:
    found = manifest["labelers"]
    counts = sorted((sum(counts.values()) for counts in found.values()), reverse=True)
    if not counts:
        return []
    tenth = max(1, len(counts) // 10)
    share = 100 * sum(counts[:tenth]) / sum(counts)
    people = "1 labeler" if len(counts) == 1 else f"{len(counts):,} labelers"
    busiest = "the busiest one" if tenth == 1 else f"the busiest {tenth:,}"
    caution = "A pseudonym is a hash of an address: it hides a labeler from a reader, not from who has a list of them."
    return [
        "## Who judged",
        "",
        f"{people}, under pseudonyms that are the same in every snapshot; {busiest} gave {share:.0f} % of the answers.",
        caution,
    ]


def _cautions(manifest: Mapping[str, Any]) -> list[str]:
    cautions = []
    simulated = manifest.get("simulated", {})
    if any(simulated.values()):
        cautions.append(
            f"- {simulated.get('comparisons', 0):,} rankings and {simulated.get('demonstrations', 0):,} demonstrations "
            "come from simulated labelers. They show that the machinery works and say nothing about people."
        )
    if manifest.get("judges", {}).get("ai"):
        cautions.append(f"- {manifest['judges']['ai']:,} answers were given by a model, not by a person.")
    if not manifest["splits"].get("comparisons", {}).get("held_out"):
        cautions.append("- No ranking is held out, so nothing in it can measure a model that was trained on it.")
    cautions.append("- Texts are as prompts and models had them; nobody has searched them for personal data.")
    return ["## Before you use it", "", *cautions]


def _counts(items: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in items)


def _answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count:,} answers"
