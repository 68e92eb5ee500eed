"""The recipe's section `contrast`: attribute-conditioned preference training."""

from __future__ import annotations

from pydantic import Field

from steerlm.config.section import DevicesPerModel, Section


class ContrastConfig(Section):
    """Prefer, of two annotated answers to a prompt, the one nearer to the goal, under the goals of both."""

    beta: float = Field(0.1, gt=0, description="DPO's beta: how strongly it holds on to the model it starts from.")
    margin: float = Field(
        1.0,
        ge=0,
        description="Weight of the margin: how much nearer the preferred answer is, on the scale from 0 to 1.",
    )
    anchor: float = Field(
        0.2, ge=0, description="Weight of the preferred answer's loss per token, which keeps it likely (plain SFT)."
    )
    minimum_distance: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Pairs whose answers differ by less, in the mean over the attributes, are left out.",
    )
    pairs_per_prompt: int = Field(
        6, ge=1, description="Most pairs per prompt, drawn from all (of four answers six); each is used twice."
    )
    learning_rate: float | None = Field(None, gt=0, description="Learning rate; null: that of train_sft.")
    epochs: float = Field(1.0, gt=0, description="Passes over the pairs.")
    tokens_per_batch: int | None = Field(
        None, ge=16, description="Token budget of one batch; a pair stays together. null: that of train_sft."
    )
    gradient_accumulation_steps: int | None = Field(
        None, ge=1, description="Batches per optimizer step; null: those of train_sft."
    )
    max_new_tokens: int = Field(1024, ge=1, description="Longest answer to a held-out prompt, before and after.")
    batch_size: int = Field(64, ge=1, description="Held-out prompts answered together.")
    devices_per_model: DevicesPerModel = 1
