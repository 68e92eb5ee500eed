"""What the planning model knows of a model: its shape, and the parameters of each part of it.

The shape comes from the model's own configuration: a local folder, the hub's cache, or a few public ones that are
written down here. Parameters are counted on the meta device, so no weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
_LLAMA_3_70B = {
    **_LLAMA_3_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "meta-llama/Llama-2-13b-hf": {
        "model_type": "llama",
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    **{
        name: {"model_type": "llama", **shape, "max_position_embeddings": context, "tie_word_embeddings": False}
        for name, shape, context in (
            ("meta-llama/Meta-Llama-3-8B", _LLAMA_3_8B, 8192),
            ("meta-llama/Llama-3.1-8B", _LLAMA_3_8B, 131072),
            ("meta-llama/Meta-Llama-3-70B", _LLAMA_3_70B, 8192),
            ("meta-llama/Llama-3.1-70B", _LLAMA_3_70B, 131072),
        )
    },
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    # The paper's model was never published. Depth and width are those of NVIDIA's GPT-43B; the feed-forward width is
    # the one at which gated layers and a vocabulary of 256,000 come to 43 B.
    "steerlm-43b": {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 22016,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "vocab_size": 256000,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
"""Public configuration numbers of models that recipes and the paper name, for planning without a network."""


@dataclass(frozen=True)
class Architecture:
    """A decoder (or encoder) of equal layers.

    Attributes:
        layers: how many.
        hidden: width of the residual stream.
        intermediate: width of the feed-forward layers.
        query: width of all query heads together.
        key_value: width of all key (or value) heads together.
        heads: query heads.
        vocab: rows of the embeddings.
        body: parameters without embeddings and output embeddings.
        tied: whether the output embeddings are the embeddings.
        gated: whether the feed-forward layers have a gate (three matrices instead of two).
        encoder: whether its tokens see those after them.
        config: where these come from; None: written down by hand.
    """

    layers: int
    hidden: int
    intermediate: int
    query: int
    key_value: int
    heads: int
    vocab: int
    body: int
    tied: bool
    gated: bool
    encoder: bool = False
    config: PretrainedConfig | None = field(default=None, repr=False, compare=False)

    @property
    def key_value_heads(self) -> int:
        """Heads that have keys and values of their own."""
        return self.heads * self.key_value // self.query

    @property
    def embedding(self) -> int:
        """Parameters of one table of embeddings."""
        return self.vocab * self.hidden

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings and the output embeddings."""
        return self.embedding * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Parameters of the causal language model."""
        return self.body + self.embeddings

    @property
    def parameters_without_head(self) -> int:
        """Parameters of an attribute model with a regression head (the head itself, a few thousand, left out)."""
        return self.body + self.embedding

    @property
    def per_layer(self) -> float:
        """Parameters of one layer."""
        return self.body / self.layers

    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Return input and output width of one layer's matrices, by the name that Llama gives them."""
        found = {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.query, self.hidden),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }
        return {**found, "gate_proj": (self.hidden, self.intermediate)} if self.gated else found


def architecture(config: PretrainedConfig) -> Architecture:
    """Read the shape of a model from its Hugging Face configuration; parameters are counted on the meta device."""
    import torch
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModel

    from steerlm.checkpoint.models import head_size

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    total = int(sum(parameter.numel() for parameter in model.parameters()))
    text = config.get_text_config()
    hidden, heads = int(text.hidden_size), int(text.num_attention_heads)
    head = head_size(config)
    names = [name for name, _ in model.named_modules()]
    return Architecture(
        layers=int(text.num_hidden_layers),
        hidden=hidden,
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * hidden),
        query=heads * head,
        key_value=int(getattr(text, "num_key_value_heads", None) or heads) * head,
        heads=heads,
        vocab=int(text.vocab_size),
        body=total - int(text.vocab_size) * hidden,
        tied=bool(getattr(text, "tie_word_embeddings", True)),
        gated=any(name.endswith("gate_proj") for name in names),
        encoder=type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False),
        config=config,
    )


def known(name: str) -> PretrainedConfig | None:
    """Return the configuration of a model whose public numbers are written down here."""
    from transformers import AutoConfig

    if name not in KNOWN:
        return None
    numbers = {**KNOWN[name]}
    config: PretrainedConfig = AutoConfig.for_model(numbers.pop("model_type"), **numbers)
    return config
