"""The sizes of a backbone that is trained from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from preface.errors import UserError, first_line
from preface.options import validated

if TYPE_CHECKING:  # imported where a model is built, so that the options of `pretrain` are known without
    from transformers import PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

SHAPES = Path(__file__).parent / "shapes"


class Architecture(BaseModel):
    """A T5: v1.0 blocks (ReLU, tied embeddings) or v1.1 blocks (gated GELU, a projection of its own)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_model: int = Field(256, ge=1, description="Width of a token.")
    layers: int = Field(4, ge=1, description="Of the encoder, and of the decoder unless that is given.")
    decoder_layers: int | None = Field(None, ge=1, description="Where the decoder's differ.")
    d_kv: int = Field(64, ge=1, description="Width of a head.")
    heads: int | None = Field(None, ge=1, description="Default: d_model / d_kv, at least 1.")
    d_ff: int | None = Field(None, ge=1, description="Default: 2.75 × d_model gated, 4 × with v1.0.")
    block: Literal["v1.0", "v1.1"] = Field("v1.1", description="T5's blocks.")
    tie_embeddings: bool | None = Field(
        None, description="Whether input embeddings are the output projection too. Default: as the block has it."
    )
    relative_buckets: int = Field(32, ge=4, description="Of distances, each with its own position bias.")
    relative_distance: int = Field(128, ge=8, description="Beyond it all distances share a bucket.")

    def config(self, vocabulary: int, pad: int = 0, eos: int = 1) -> T5Config:
        """Transformers' configuration of the same sizes."""
        from transformers import T5Config

        gated = self.block == "v1.1"
        sizes: dict[str, Any] = {
            "vocab_size": vocabulary,
            "d_model": self.d_model,
            "d_kv": self.d_kv,
            "num_heads": self.heads or max(1, self.d_model // self.d_kv),
            "d_ff": self.d_ff or (self.d_model * 11 // 4 if gated else 4 * self.d_model),
            "num_layers": self.layers,
            "num_decoder_layers": self.decoder_layers or self.layers,
            "feed_forward_proj": "gated-gelu" if gated else "relu",
            "tie_word_embeddings": self.tied,
            "relative_attention_num_buckets": self.relative_buckets,
            "relative_attention_max_distance": self.relative_distance,
            "dropout_rate": 0.0,
            "pad_token_id": pad,
            "eos_token_id": eos,
            "decoder_start_token_id": pad,
        }
        return T5Config(**sizes)

    @property
    def tied(self) -> bool:
        """Whether the input embeddings are the output projection too."""
        return self.block == "v1.0" if self.tie_embeddings is None else self.tie_embeddings

    def build(self, tokenizer: PreTrainedTokenizerBase) -> T5ForConditionalGeneration:
        """A model with random weights, drawn from torch's generator."""
        import torch
        from torch import nn
        from transformers import T5ForConditionalGeneration

        config = self.config(len(tokenizer), int(tokenizer.pad_token_id), int(tokenizer.eos_token_id))  # type: ignore[arg-type]
        model = T5ForConditionalGeneration(config)
        if not self.tied:  # Transformers ties whatever the configuration says, unless a checkpoint holds two tensors
            projection = nn.Parameter(torch.empty_like(model.shared.weight))
            nn.init.normal_(projection, std=self.d_model**-0.5)  # logits of unit size, as with tied embeddings
            model.lm_head.weight = projection
        return model


def load_architecture(name: str | Path | None, **numbers: Any) -> Architecture:
    """A shipped shape (`1m`, `4m`, `11m`, `30m`), a YAML, or None for the defaults; `numbers` win over it.

    Raises UserError for an unknown name, a broken file or impossible numbers.
    """
    fields: dict[str, Any] = {}
    if name is not None:
        path = SHAPES / f"{name}.yaml" if (SHAPES / f"{name}.yaml").exists() else Path(name)
        try:
            fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            known = ", ".join(sorted((path.stem for path in SHAPES.glob("*.yaml")), key=lambda stem: int(stem[:-1])))
            raise UserError(f"architecture {name}: no such file; the shapes that ship are {known}") from error
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"architecture {name}: is not YAML ({first_line(error)})") from error
        if not isinstance(fields, dict):
            raise UserError(f"architecture {name}: is no list of sizes, as in `d_model: 256`")
    return validated(Architecture, fields | numbers)
