"""Decoder-only models by the type that their configuration names: which are taken, and why others are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """What a family's prompts have to know of it."""

    positions: Literal["relative", "learned"] = "relative"
    """`relative`: only distances count (rotary, or none). `learned`: a table from 0 on, which ends."""


FAMILIES: dict[str, Family] = {
    "llama": Family(),  # SmolLM, SmolLM2 too
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "mistral": Family(),
    "phi": Family(),
    "phi3": Family(),
    "gpt2": Family("learned"),
    "opt": Family("learned"),
    "gpt_neox": Family(),  # Pythia
    "smollm3": Family(),
    "granite": Family(),
    "olmo": Family(),
    "olmo2": Family(),
    "olmo3": Family(),
    "starcoder2": Family(),
    "glm": Family(),
    "exaone4": Family(),
}

REFUSED = {
    **dict.fromkeys(
        ("falcon", "bloom", "mpt", "gptj", "gpt_neo", "codegen", "xglm"),
        "its attention does not go through Transformers' attention interface, which prompts come in by",
    ),
    "gpt_oss": "its attention has learned sinks, which prompts do not know yet",
    "gemma3": "it reads pictures too; its text model alone (gemma3_text) is taken",
}
"""By model type, the reason."""

CHANGING = ("dynamic", "longrope")
"""Kinds of rotary positions that turn with the length of the text: states that were read once would be wrong."""


def refusal(config: Any) -> str | None:
    """Why a decoder-only model of this configuration is not taken; None: it is."""
    kind = config.model_type
    if kind not in FAMILIES:
        return REFUSED.get(kind, f"Preface takes the T5 family (t5, mt5), and {', '.join(FAMILIES)}")
    for item in rotary_kinds(getattr(config, "rope_parameters", None)):
        if item in CHANGING:
            return f"its rotary positions are of the kind {item}, which turns with the length of the text"
    return None


def rotary_kinds(parameters: Any) -> list[str]:
    """The kinds of rotary positions in a configuration, which may have one for each type of layer."""
    if not isinstance(parameters, dict):
        return []
    if "rope_type" in parameters:
        return [str(parameters["rope_type"])]
    return [kind for item in parameters.values() for kind in rotary_kinds(item)]
