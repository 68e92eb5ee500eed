"""The recipe's section `reinforce`: reinforcement learning with one reward per attribute."""

from __future__ import annotations

from pydantic import Field, model_validator

from steerlm.config.section import Section


class ReinforceConfig(Section):
    """Sample, score, reinforce: GRPO with one reward per attribute, its distance from what was asked for."""

    steps: int = Field(100, ge=1, description="Optimizer steps.")
    batch_size: int = Field(64, ge=2, description="Responses sampled per optimizer step.")
    num_generations: int = Field(8, ge=2, description="Responses per prompt and request; divides the batch.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature.")
    max_new_tokens: int = Field(1024, ge=1, description="Longest response.")
    learning_rate: float = Field(1e-6, gt=0, description="Learning rate, constant after the warm-up.")
    beta: float = Field(0.04, ge=0, description="Weight of the divergence from the model it starts from.")
    normalize_then_sum: bool = Field(
        True, description="Normalise each attribute's rewards by themselves, then add them up (GDPO); false: add first."
    )
    save_steps: int = Field(25, ge=1, description="Keep a checkpoint to go on from every so many steps.")

    @model_validator(mode="after")
    def _whole_groups(self) -> ReinforceConfig:
        if self.batch_size % self.num_generations:
            raise ValueError(
                f"reinforce.batch_size {self.batch_size} is no multiple of num_generations {self.num_generations}"
            )
        return self
