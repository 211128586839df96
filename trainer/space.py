"""A full disk, by whatever error it shows itself. Standard library only.

Python raises `OSError`, while safetensors and tokenizers, which write from Rust, raise errors of their own that only
quote the number of the system's.
"""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)
"""No space left, and a quota that is used up."""


def is_full(error: BaseException) -> bool:
    """Return whether an error says that there is no space left to write to."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(f"(os error {number})" in str(error) for number in FULL)
