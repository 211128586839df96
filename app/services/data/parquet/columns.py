"""The columns of each format that has a Parquet form. Standard library only: the child process reads this too.

A type is "text", "number" (64-bit float), "whole" (64-bit integer), "flag", a list of one type, or an object of types.
"""

from __future__ import annotations

from typing import Any

Type = Any

TURNS: Type = [{"role": "text", "content": "text"}]
_MORE: dict[str, Type] = {"margin": "number", "tie": "flag", "prompt_group": "text"}

COLUMNS: dict[str, dict[str, Type]] = {
    "plackett": {
        "schema_version": "whole",
        **dict.fromkeys(("id", "project_id", "task_id"), "text"),
        "prompt": {"id": "text", "split": "text", "messages": TURNS},
        "completions": [
            dict.fromkeys(
                ("id", "text", "source", "parent_id", "model_version_id", "model_version", "finish_reason"), "text"
            )
        ],
        **dict.fromkeys(("origin", "purpose"), "text"),
        "ranking": [["text"]],
        "strengths": ["whole"],
        "acceptable": "whole",
        "judgements": "text",  # JSON: its keys are the ids of completions, and each project asks for its own
        "reason": "text",
        "shown_order": ["text"],
        "labeler": "text",
        "judge": "text",
        "guideline_version": "whole",
        "seconds": "number",
        **dict.fromkeys(("simulated", "counted"), "flag"),
        "not_counted_reason": "text",
        "quarantined": "flag",
        **dict.fromkeys(("dataset", "supersedes"), "text"),
        **dict.fromkeys(("superseded", "retracts"), "flag"),
        "created_at": "text",
    },
    "trl": {"prompt": TURNS, "chosen": TURNS, "rejected": TURNS, **_MORE},
    "trl-implicit": {"chosen": TURNS, "rejected": TURNS, **_MORE},
    "trl-text": {"prompt": "text", "chosen": "text", "rejected": "text", **_MORE},
    "trl-unpaired": {"prompt": TURNS, "completion": TURNS, "label": "flag", "prompt_group": "text"},
    "trl-prompts": {"prompt": TURNS, "prompt_group": "text"},
    "trl-sft": {"messages": TURNS, "prompt_group": "text"},
    "hh": {"chosen": "text", "rejected": "text"},
    "ultrafeedback-binarized": {
        "prompt": "text",
        "prompt_id": "text",
        **dict.fromkeys(("chosen", "rejected", "messages"), TURNS),
        **dict.fromkeys(("score_chosen", "score_rejected"), "number"),
    },
    "helpsteer3": {
        "domain": "text",
        "language": "text",
        "context": TURNS,
        "response1": "text",
        "response2": "text",
        "overall_preference": "whole",
        "individual_preference": [
            {"score": "whole", "reasoning": "text", "feedback1": "text", "feedback2": "text"},
        ],
    },
    "arena": {
        **dict.fromkeys(("id", "evaluation_session_id"), "text"),
        "evaluation_order": "whole",
        **dict.fromkeys(("model_a", "model_b", "winner", "judge"), "text"),
        "conversation_a": TURNS,
        "conversation_b": TURNS,
        "language": "text",
    },
}
"""Trees, annotations with results of many kinds, and CSV have no columns of one type, and so no Parquet form."""
