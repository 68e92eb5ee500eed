"""The recipe's section `evaluate`: who measures, and what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from steerlm.attributes import AttributeSchema
from steerlm.config.section import DevicesPerModel, EngineName, Guidance, RubricLanguage, Section, check_guidance
from steerlm.errors import UserError, did_you_mean

PROMPT_GROUPS = ("source", "prompt_language", "turn")
"""What `by` may name beside a categorical attribute."""


class ClassifierConfig(Section):
    """An external sequence classifier as an independent scorer, for example of toxicity."""

    model: str = Field(description="Hugging Face id or local folder; safetensors only.")
    labels: dict[str, str] = Field(
        min_length=1,
        description="Label of the classifier: attribute whose high end it means, for example toxic: toxicity.",
    )
    multi_label: bool | None = Field(
        None, description="Whether several labels may hold at once; null: as the model's own configuration says."
    )


class JudgeScorerConfig(Section):
    """An LLM judge that rates every answer on a rubric, as an independent scorer (needs the `judge` extra)."""

    folder: Path = Field(description="Where its replies are kept: nothing is asked, or paid for, twice.")
    model: str | None = Field(None, description="Name of the model; null: STEERLM_JUDGE_MODEL.")
    base_url: str | None = Field(None, description="OpenAI-compatible endpoint; null: OPENAI_BASE_URL, or OpenAI's.")
    attributes: tuple[str, ...] = Field((), description="What it rates, one request each per answer; empty: all.")
    max_in_flight: int = Field(8, ge=1, description="Requests under way at once.")
    reasoning: bool = Field(
        False, description="It thinks first: no temperature, `max_completion_tokens`, and room to think."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Its longest output, thinking included; null: 512, and 8192 more where it thinks."
    )
    language: RubricLanguage = "en"


class EvaluateConfig(Section):
    """Sweep every dial on held-out prompts and measure what comes out."""

    prompts: Path | None = Field(
        None, description="JSONL of conversations that end with a user turn; null: the validation prompts."
    )
    num_prompts: int | None = Field(48, ge=2, description="Prompts used (null: all).")
    samples_per_prompt: int = Field(1, ge=1, description="Samples per prompt and setting.")
    settings: tuple[Literal["defaults", "extremes", "random", "alone"], ...] = Field(
        ("defaults", "random"),
        min_length=1,
        description="What the other dials stand at while one is swept: their defaults, either end of their scale, "
        "combinations drawn from those in the training data, or nowhere: the dial is alone in the header.",
    )
    guidance: Guidance = Field(
        None,
        description="How strongly the dial that is turned counts, or by name: 1 as trained, more exaggerates "
        "(two prompts per token). null: as each model says (`tune_guidance`), 1 where it says nothing.",
    )
    by: str | None = Field(
        None,
        description="Report the dials for groups as well: `source` of the prompts' records, `prompt_language` (of what "
        "the user says; extra `measures`), `turn` (which one of the conversation the answer is), or the name of a "
        "categorical attribute: by what it is asked for.",
    )
    measure: Literal["playground", "text", "none"] = Field(
        "text", description="Exact measures computed from the text itself."
    )
    attribute_models: tuple[Path, ...] = Field((), description="Further, independent attribute models used as scorers.")
    classifiers: tuple[ClassifierConfig, ...] = Field(
        (),
        description="External classifiers used as scorers: `model`, `labels` (label: attribute), `multi_label`.",
    )
    judge: JudgeScorerConfig | None = Field(
        None,
        description="LLM judge used as a scorer: `folder`, `model`, `base_url`, `attributes`, `max_in_flight`, "
        "`reasoning`, `max_tokens`, `language`.",
    )
    suites: tuple[Literal["toxicity", "humor"], ...] = Field((), description="Experiments of the paper to run as well.")
    toxicity_prompts: str | None = Field(
        None, description="HH-RLHF file (or FORMAT:PATH) whose first turns the suite `toxicity` asks."
    )
    suite_prompts: int = Field(100, ge=2, description="Prompts of a suite, at most; the paper has 100.")
    temperature: float = Field(0.7, ge=0, description="Sampling temperature (0 = greedy).")
    top_k: int = Field(50, ge=0, description="Sample from the k likeliest tokens (0: all).")
    max_new_tokens: int = Field(512, ge=1, description="Longest response.")
    batch_size: int = Field(
        64, ge=1, description="Sequences sampled together, or fewer: what the free memory has room for."
    )
    devices_per_model: DevicesPerModel = 1
    engine: EngineName = Field(
        "local", description="What samples: local (built in), vllm or openvino (extras of the same names)."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Precision of sampling and scoring.")

    def check(self, schema: AttributeSchema) -> None:
        """Refuse what cannot be evaluated with these attributes, before anything is trained.

        Raises:
            UserError: an unknown attribute, an engine without guidance, a classifier or a suite on a categorical
                one, a suite without its prompts, groups by what is no category.
        """
        check_guidance("evaluate.guidance", self.guidance, self.engine, schema)
        categorical = [attribute.name for attribute in schema if attribute.kind == "categorical"]
        if self.by is not None and self.by not in (*PROMPT_GROUPS, *categorical):
            raise UserError(f"evaluate.by {self.by!r}: {did_you_mean(self.by, [*PROMPT_GROUPS, *categorical])}")
        for classifier in self.classifiers:
            for label, name in classifier.labels.items():
                if schema[name].kind != "ordinal":
                    raise UserError(
                        f"evaluate.classifiers: label {label!r} of {classifier.model} means {name!r}, which is "
                        "categorical; a label's probability has no place on its scale"
                    )
        for name in self.judge.attributes if self.judge is not None else ():
            schema[name]
        for suite in self.suites:
            if suite not in schema or schema[suite].kind != "ordinal":
                raise UserError(f"evaluate.suites: {suite!r} needs an ordinal attribute of that name in the schema")
            if suite == "toxicity" and self.toxicity_prompts is None:
                raise UserError("evaluate.suites: 'toxicity' asks red-team questions; set evaluate.toxicity_prompts")
