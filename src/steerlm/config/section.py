"""What all sections of a recipe have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerlm.attributes import AttributeSchema
from steerlm.errors import UserError, did_you_mean

EngineName = Literal["local", "vllm", "openvino"]
"""What samples: the built-in engine, vLLM (extra `vllm`) or OpenVINO GenAI (extra `openvino`)."""

ScoringEngine = Literal["local", "vllm"]
"""What computes an attribute model: this process (or, of several devices, some of ours), or vLLM."""

RubricLanguage = Annotated[
    Literal["en", "conversation", "de", "es", "fr", "it", "ja", "pt", "ru", "zh"],
    Field(
        description="Language that a judge is asked for a rating in; conversation: that of each conversation (extra "
        "`measures`), English where there is no rubric in it."
    ),
]
"""The same key for every judge with a rubric; the words are in `scorers/llm/rubrics.yaml`."""

Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""How strongly a dial counts: 1 as trained."""
Guidance = Strength | dict[str, Strength] | None
"""How strongly the dials count that are turned: all the same, or by name; None: as the model says."""
DevicesPerModel = Annotated[
    int,
    Field(ge=1, description="Devices of a node that share the model; more than 1 for one that fits no single device."),
]
"""The same key in every section that scores or samples."""


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_guidance(
    key: str, guidance: float | dict[str, float] | None, engine: EngineName, schema: AttributeSchema
) -> None:
    """Refuse strengths of attributes that do not exist, and an engine that has none.

    Args:
        key: of the recipe.

    Raises:
        UserError: naming it.
    """
    if isinstance(guidance, dict):
        for name in guidance:
            if name not in schema:
                raise UserError(f"{key}: unknown attribute {name!r}: {did_you_mean(name, schema.names)}")
    strengths = guidance.values() if isinstance(guidance, dict) else (guidance,)
    if engine != "local" and any(strength not in (None, 1) for strength in strengths):
        raise UserError(f"{key}: the engine {engine} cannot mix prompts; leave it out, or set engine: local")
