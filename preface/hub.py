"""Whether the Hugging Face hub answers: its libraries alone would retry for minutes."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SECONDS = 5.0
"""How long the hub has to answer before it counts as out of reach."""


def hub_error(question: Callable[[HfApi], object], seconds: float | None = None) -> Exception | None:
    """Why the hub does not answer a question within so many seconds (default: `SECONDS`): the error it raises, or that
    there is no hub; None: it does answer."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return ConnectionError("HF_HUB_OFFLINE is set")
    seconds = SECONDS if seconds is None else seconds
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            question(HfApi())
            answers.append(None)
        except Exception as error:
            answers.append(error)

    # in a thread, since looking up a host name has no time limit of its own
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else TimeoutError(f"no answer within {seconds:g} seconds")
