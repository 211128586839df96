"""Which chat template a model was trained with: its hash beside the weights, in the card and in the report.

A model that meets another template than it learned with meets questions in a form that it has never seen.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "template.json"
KEY = "chat_template_sha256"


def sha256(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the sha256 of the chat template; None for a tokenizer without one, which gets the plain form."""
    template = tokenizer.chat_template
    return hashlib.sha256(str(template).encode()).hexdigest() if template else None


def save(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the hash into a model's folder."""
    (folder / FILE).write_text(json.dumps({KEY: sha256(tokenizer)}) + "\n", encoding="utf-8")


def facts(model: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """Return what a report says of the template of a model's tokenizer: its hash, and a warning where it has changed.

    The warning goes to stderr, too. It is no error: people change templates on purpose. A model that was not trained
    here has no hash stored with it, and nothing to compare.
    """
    now = sha256(tokenizer)
    found: dict[str, object] = {KEY: now}
    path = Path(model) / FILE
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))[KEY]
        except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read: {error!r}.") from error
        if before != now:
            warning = (
                f"The model {Path(model).name} was trained with another chat template ({_short(before)}) than its "
                f"tokenizer has today ({_short(now)})."
            )
            print(warning, file=sys.stderr, flush=True)
            found["chat_template_warning"] = warning
    return found


def _short(digest: str | None) -> str:
    return f"sha256 {digest[:16]}" if digest else "none, the plain form"
