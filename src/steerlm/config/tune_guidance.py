"""The recipe's section `tune_guidance`: which strengths are tried for each dial, and on how many prompts."""

from __future__ import annotations

from pydantic import Field, field_validator

from steerlm.config.section import EngineName, Section, Strength
from steerlm.errors import UserError


class TuneGuidanceConfig(Section):
    """Choose how strongly each dial counts, by the error that is left on held-out prompts."""

    strengths: tuple[Strength, ...] = Field(
        (1.0, 2.0, 3.0, 4.0, 6.0, 8.0), min_length=2, description="Strengths tried: 1 as trained, more exaggerates."
    )
    num_prompts: int = Field(8, ge=2, description="Held-out prompts it is measured on, none that `evaluate` draws.")

    @field_validator("strengths")
    @classmethod
    def _in_order(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(strengths)) < len(strengths):
            raise ValueError(f"tune_guidance.strengths: give each once, got {', '.join(f'{s:g}' for s in strengths)}")
        return tuple(sorted(strengths))

    def check(self, engine: EngineName) -> None:
        """Refuse an engine that has no strengths.

        Args:
            engine: of the section `evaluate`, which samples.

        Raises:
            UserError: it cannot mix prompts.
        """
        if engine != "local":
            raise UserError(
                f"tune_guidance mixes prompts, which the engine {engine} cannot: set evaluate.engine to local, or do "
                "without it (tune_guidance: null)"
            )
