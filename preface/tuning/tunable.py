"""Which weights of a model are tuned, where weights are: the baselines that prompts are compared with."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from preface.errors import UserError, first_line
from preface.extras import missing

Tuning = Literal["full", "lora", "ia3", "bitfit", "adapters"]
NAMES: dict[Tuning, str] = {
    "full": "full tuning",
    "lora": "LoRA",
    "ia3": "IA3",
    "bitfit": "BitFit",
    "adapters": "adapters",
}
RATES: dict[Tuning, tuple[float, ...]] = {
    "full": (1e-5, 3e-5, 1e-4),
    "lora": (1e-4, 3e-4, 1e-3),
    "ia3": (1e-3, 3e-3, 1e-2),
    "bitfit": (3e-4, 1e-3, 3e-3),
    "adapters": (3e-4, 1e-3, 3e-3),
}
"""AdamW learning rates worth searching."""
OF_PEFT: tuple[Tuning, ...] = ("lora", "ia3")
LAST = ("o", "wo", "o_proj", "down_proj", "out_proj", "fc2", "dense", "dense_4h_to_h", "c_proj")
"""What the last projection of an attention or of a feed-forward block is called in Transformers."""


def make_tunable(
    model: Any, tuning: Tuning, rank: int = 8, width: int = 64, seed: int = 0
) -> tuple[Any, dict[str, Any]]:
    """The model with what is tuned, and the parameters that are, by name; all others are frozen.

    - `full`: every parameter;
    - `lora` (Hu et al. 2022), of a rank, and `ia3` (Liu et al. 2022), at the places that PEFT chooses;
    - `bitfit`: biases, and the scales of norms, which T5 and Llama have in their place (Ben Zaken et al. 2022);
    - `adapters`: a bottleneck of a width after each attention and feed-forward block (Houlsby et al. 2019).

    Raises UserError where PEFT is missing, or the model has nothing of the kind.
    """
    torch.manual_seed(seed)  # of what is added
    model.requires_grad_(tuning == "full")
    match tuning:
        case "bitfit":
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.dim() == 1)
        case "adapters":
            add_adapters(model, width)
        case "lora" | "ia3":
            model = _with_peft(model, tuning, rank)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        others = ", ".join(name for name in get_args(Tuning) if name != tuning)
        raise UserError(f"{NAMES[tuning]}: a {model.config.model_type} model has nothing to tune so; one of {others}")
    return model, parameters


def in_mixed_precision(model: Any) -> None:
    """Let a model, which lies where it will compute, multiply in bfloat16; its weights stay in float32, and so do its
    logits, which would tie otherwise (Micikevicius et al. 2018). 1.5 to 2 times as fast where the hardware has bfloat16
    (`benchmarks/tuned_weights.py`)."""
    device = model.device.type
    model.forward = torch.autocast(device, torch.bfloat16)(model.forward)
    if model.config.is_encoder_decoder:  # which is also called by itself
        encoder = model.get_encoder()
        encoder.forward = torch.autocast(device, torch.bfloat16)(encoder.forward)
    head = model.get_output_embeddings()
    exact = torch.autocast(device, enabled=False)(head.forward)
    head.forward = lambda hidden: exact(hidden.float())


def check_peft(tuning: Tuning) -> None:
    """Raise UserError where PEFT is missing."""
    if missing("peft"):
        raise UserError(f"{NAMES[tuning]}: needs PEFT; `pip install 'preface[peft]'` brings it")


def _with_peft(model: Any, tuning: Tuning, rank: int) -> Any:
    check_peft(tuning)
    import peft

    task = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    config = peft.LoraConfig(task_type=task, r=rank) if tuning == "lora" else peft.IA3Config(task_type=task)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return peft.get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"{NAMES[tuning]}: PEFT does not take a {model.config.model_type} model ({first_line(error)})"
        ) from error


def add_adapters(model: nn.Module, width: int) -> None:
    """Put an adapter behind the last projection of every block."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in LAST and isinstance(child, nn.Linear | Conv1D):
                setattr(module, name, Adapted(child, width))


class Adapted(nn.Module):
    """A projection and a bottleneck after it, which begins as nothing."""

    def __init__(self, base: nn.Linear | Conv1D, width: int) -> None:
        super().__init__()
        self.base = base
        size = base.nf if isinstance(base, Conv1D) else base.out_features
        like: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.down, self.up = nn.Linear(size, width, **like), nn.Linear(width, size, **like)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    @property
    def weight(self) -> Tensor:
        """T5 asks for its precision."""
        return self.base.weight

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        output: Tensor = self.base(input)
        return output + self.up(torch.relu(self.down(output)))
