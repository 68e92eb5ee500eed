"""The recipe's section `bootstrap`: what is asked for, what is kept, and how the next model is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from steerlm.attributes import AttributeSchema
from steerlm.config.section import DevicesPerModel, EngineName, Guidance, Section
from steerlm.errors import UserError, did_you_mean

_AS_IN_THE_PAPER: dict[str, object] = {
    "samples_per_prompt": 4,
    "keep_per_prompt": 1,
    "temperature": 1.0,
    "tolerance": 0.0,
    "guidance": 1.0,
    "learning_rate_share": 1.0,
    "epochs": None,
}


class BootstrapConfig(Section):
    """Step 4: sample, score, keep what came out as asked, fine-tune again."""

    mode: Literal["nearest", "paper"] = Field(
        "nearest",
        description="nearest: a prompt is asked for any setting seen in training, and the answers nearest to it train "
        "it, those of all rounds together. paper: every sample is asked for the best quality and trains what the "
        "attribute model sees in it; other defaults.",
    )
    rounds: int = Field(1, ge=1, description="How often the step is repeated.")
    quality_attributes: tuple[str, ...] = Field(
        (),
        description="Attributes that count as quality: `paper` asks for their best values, the report for both. None "
        "named: `quality` where it has a best end, else all that have one.",
    )
    num_prompts: int | None = Field(None, ge=1, description="Training prompts to sample for; null: all.")
    samples_per_prompt: int = Field(
        2, ge=1, description="Responses sampled per prompt (`paper`: 4); more where few come out as asked."
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="Sampling temperature (`paper`: 1). null: chosen in every round on 50 prompts, by how many "
        "different answers pass the filter.",
    )
    top_k: int = Field(50, ge=0, description="Sample from the k likeliest tokens (0: all).")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the smallest set of tokens with this probability.")
    guidance: Guidance = Field(
        None,
        description="How strongly the dials count that a request turns away from their defaults, or by name (several "
        "that are turned: the least of theirs): above 1 the answers go further, and the next model learns to go there "
        "by itself. null: as the folder of the model that samples says (`steerlm tune-guidance`), 1 where it says "
        "nothing, as in later rounds (`paper`: 1).",
    )
    max_new_tokens: int = Field(1024, ge=1, description="Longest response.")
    batch_size: int = Field(
        64, ge=1, description="Sequences sampled together, or fewer: what the free memory has room for."
    )
    devices_per_model: DevicesPerModel = 1
    engine: EngineName = Field(
        "local", description="What samples: local (built in), vllm or openvino (extras of the same names)."
    )
    filter: Literal["none", "top", "minimum", "agreement"] = Field(
        "none",
        description="With mode paper, which a recipe has that names a filter: which samples are kept: all, the best "
        "per prompt, those with a minimum quality, or those in which the attribute model sees what was asked for.",
    )
    keep_per_prompt: int = Field(
        2, ge=1, description="With mode nearest and with filter top: samples kept per prompt (`paper`: 1)."
    )
    minimum_quality: float = Field(3.0, description="With filter minimum: mean predicted quality that is needed.")
    tolerance: float = Field(
        0.75,
        ge=0,
        description="With mode nearest and with filter agreement: most levels between an attribute's predicted and "
        "requested value; a prompt without such a sample is dropped (`paper`: 0).",
    )
    start_from: Literal["base", "sft"] = Field(
        "sft", description="What the next fine-tuning starts from: the model that sampled, or the base model."
    )
    mix_original: float = Field(
        1.0,
        ge=0,
        description="Original records mixed in, as a multiple of the bootstrapped ones (capped at all).",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Learning rate of the second fine-tuning; null: a share of that of train_sft."
    )
    learning_rate_share: float = Field(0.25, gt=0, description="That share (`paper`: 1).")
    epochs: float | None = Field(
        3.0,
        gt=0,
        description="Epochs of the second fine-tuning, with a validation after each, which picks the weights; null: "
        "those of train_sft (`paper`).",
    )
    judge: Path | None = Field(
        None,
        description="Attribute model that says what a round changed, best one of another seed; null: the one that "
        "chooses, which finds what it chose for.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_mode(cls, raw: object) -> object:
        if not isinstance(raw, dict):
            return raw
        mode = raw.get("mode", "nearest" if raw.get("filter", "none") == "none" else "paper")
        return {**_AS_IN_THE_PAPER, **raw, "mode": mode} if mode == "paper" else raw

    @model_validator(mode="after")
    def _fits_together(self) -> BootstrapConfig:
        if self.mode == "nearest" and self.filter != "none":
            raise ValueError(f"filter {self.filter} belongs to mode: paper; leave one of them out")
        if self.mode == "paper" and self.temperature is None:
            raise ValueError("a temperature is chosen in mode: nearest only; give one")
        if self.start_from == "base" and self.mix_original == 0:
            raise ValueError("start_from: base needs original records, as that model knows no attributes: mix_original")
        return self

    def with_quality(self, schema: AttributeSchema) -> BootstrapConfig:
        """Return the section with the attributes named that count as quality; there may be none in mode `nearest`.

        Raises:
            UserError: one that is unknown or has no best end, or none in mode `paper`.
        """
        ends = tuple(attribute.name for attribute in schema if attribute.best is not None)
        names = self.quality_attributes or (("quality",) if "quality" in ends else ends)
        for name in names:
            if name not in schema:
                known = did_you_mean(name, schema.names)
                raise UserError(f"bootstrap.quality_attributes: unknown attribute {name!r}: {known}")
            if name not in ends:
                raise UserError(f"bootstrap.quality_attributes: {name!r} has no best end in the schema")
        if self.mode == "paper" and not names:
            raise UserError(
                "bootstrap: mode paper (a filter means it) asks for the best quality, and no attribute has a best end: "
                "say `best: max` or `best: min` of one, or take `mode: nearest` without a filter"
            )
        return self.model_copy(update={"quality_attributes": names})

    def learning_rate_after(self, first: float) -> float:
        """Return the learning rate of the second fine-tuning, given that of the first."""
        return first * self.learning_rate_share if self.learning_rate is None else self.learning_rate

    def most_kept(self) -> float:
        """Return how many samples of a prompt are kept at most."""
        chooses = self.mode == "nearest" or self.filter == "top"
        return min(self.keep_per_prompt, self.samples_per_prompt) if chooses else self.samples_per_prompt
