"""Language models that anybody can make without a download: small, with random weights from a seed. Extra ``lm``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ntp_envs.language import torch
from ntp_envs.tasks.language_model import LanguageModel

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True, repr=False)
class SeededModel(LanguageModel):
    """`LanguageModel` of a llama of two layers over 16 tokens, whose weights are drawn with a seed.

    Args:
        seed: of the weights; the other parameters are those of `LanguageModel`.
    """

    model: Any = None
    horizon: int = 16
    changes: tuple[str, ...] = ("int4", "drop", "window=2", "temperature=0.8")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model is None:
            object.__setattr__(self, "model", _drawn(self.seed))
        super().__post_init__()


@lru_cache(maxsize=2)
def _drawn(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=16, max_position_embeddings=64, bos_token_id=0, **SIZES)  # type: ignore[arg-type]
    model, generator = LlamaForCausalLM(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            torch.nn.init.normal_(weights, 1.0 if weights.ndim == 1 else 0.0, 0.5, generator=generator)
    return model.eval()
