"""Attribute-conditioned fine-tuning (SteerLM, arXiv 2310.05344): language models with dials.

The public names; whatever needs torch is imported on first use.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from steerlm.attributes import HELPSTEER, OASST, PAPER, STEERLM, Attribute, AttributeSchema
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.config import Recipe, build_recipe, load_recipe
    from steerlm.generation.engine import Request, Sample, Sampling, load_engine
    from steerlm.pipeline import run_recipe, run_stage
    from steerlm.scorers.attribute_models import load_attribute_model
    from steerlm.scorers.rewards import attribute_rewards
    from steerlm.template.conversation_encoder import ConversationEncoder
    from steerlm.template.installing import install_template

_LAZY = {
    "Recipe": "config",
    "build_recipe": "config",
    "load_recipe": "config",
    "Request": "generation.engine",
    "Sample": "generation.engine",
    "Sampling": "generation.engine",
    "load_engine": "generation.engine",
    "run_recipe": "pipeline",
    "run_stage": "pipeline",
    "load_attribute_model": "scorers.attribute_models",
    "attribute_rewards": "scorers.rewards",
    "ConversationEncoder": "template.conversation_encoder",
    "install_template": "template.installing",
}

__all__ = [
    "HELPSTEER",
    "OASST",
    "PAPER",
    "STEERLM",
    "Attribute",
    "AttributeSchema",
    "Conversation",
    "ConversationEncoder",
    "Message",
    "Recipe",
    "Request",
    "Sample",
    "Sampling",
    "Score",
    "UserError",
    "attribute_rewards",
    "build_recipe",
    "install_template",
    "load_attribute_model",
    "load_engine",
    "load_recipe",
    "read_conversations",
    "run_recipe",
    "run_stage",
    "write_conversations",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("steerlm")
    if name in _LAZY:
        return getattr(importlib.import_module(f"steerlm.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'steerlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
