"""The recipe's section `refine`: SteerLM 2.0."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from steerlm.config.section import DevicesPerModel, EngineName, Section


class RefineConfig(Section):
    """SteerLM 2.0: pull the model towards P(y|a,x), by its own answers to requests from the whole range."""

    rounds: int = Field(1, ge=1, description="How often the step is repeated, each time from the model before.")
    num_prompts: int | None = Field(None, ge=1, description="Training prompts to sample for; null: all.")
    requests_per_prompt: int = Field(
        1, ge=1, description="Settings asked of each prompt, drawn evenly from those that the training labels have."
    )
    samples_per_prompt: int = Field(10, ge=2, description="Responses sampled per prompt and request.")
    temperature: float = Field(0.7, gt=0, description="Sampling temperature.")
    top_k: int = Field(0, ge=0, description="Sample from the k likeliest tokens (0: all).")
    top_p: float = Field(0.9, gt=0, le=1, description="Sample from the smallest set of tokens with this probability.")
    max_new_tokens: int = Field(1024, ge=1, description="Longest response.")
    batch_size: int = Field(
        64, ge=1, description="Sequences sampled together, or fewer: what the free memory has room for."
    )
    devices_per_model: DevicesPerModel = 1
    engine: EngineName = Field(
        "local", description="What samples: local (built in), vllm or openvino (extras of the same names)."
    )
    concentration: float = Field(
        24.0,
        gt=0,
        description="Of the Beta distribution around a regression's score, which says how likely a level is.",
    )
    kernel: float = Field(
        0.0,
        ge=0,
        description="Of attributes that are measured: width in levels of the Gaussian kernel that says how likely a "
        "level is to what was measured; 0: the level it is, and no other.",
    )
    response_model: Path | None = Field(
        None,
        description="Checkpoint that says log P(y|x), asked without a header; null: the model that refining starts "
        "from.",
    )
    groups: Path | None = Field(
        None,
        description="Responses with their likelihoods, in NeMo-Aligner's format for SteerLM 2.0, to train on; then "
        "nothing is sampled.",
    )
    learning_rate: float | None = Field(None, gt=0, description="Learning rate; null: that of train_sft.")
    epochs: float = Field(1.0, gt=0, description="Passes over the groups of a round.")
    tokens_per_batch: int | None = Field(
        None, ge=16, description="Token budget of one batch; a group stays together. null: that of train_sft."
    )
    gradient_accumulation_steps: int | None = Field(
        None, ge=1, description="Batches per optimizer step; null: those of train_sft."
    )

    @model_validator(mode="after")
    def _rounds_sample(self) -> RefineConfig:
        if self.groups is not None and self.rounds > 1:
            raise ValueError("refine.groups is the data of one round; set refine.rounds: 1")
        return self
