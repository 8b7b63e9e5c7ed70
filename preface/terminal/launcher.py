"""Whether a launcher, `torchrun` or `accelerate launch`, has started this process and others beside it."""

from __future__ import annotations

import os


def launched() -> bool:
    """Whether there are others."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def is_first() -> bool:
    """Whether this process is the first of them, or alone: the one that speaks for all."""
    return int(os.environ.get("RANK") or 0) == 0
