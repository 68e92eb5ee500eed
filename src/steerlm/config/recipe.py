"""The recipe's sections: typed and strict.

Every section is a frozen model whose fields are documented here and nowhere else; an unknown key is an
error that offers the nearest valid one. The sections carry the names of the stages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from steerlm.attributes import AttributeSchema
from steerlm.config.bootstrap import BootstrapConfig
from steerlm.config.contrast import ContrastConfig
from steerlm.config.evaluate import EvaluateConfig
from steerlm.config.grow import GrowConfig
from steerlm.config.refine import RefineConfig
from steerlm.config.reinforce import ReinforceConfig
from steerlm.config.section import DevicesPerModel, RubricLanguage, ScoringEngine, Section, check_guidance
from steerlm.config.tune_guidance import TuneGuidanceConfig

TemplateName = Literal["steerlm", "chatml", "llama3", "nemo"]
TemplateChoice = Literal["auto", "native", "steerlm", "chatml", "llama3", "nemo"]
HeaderMarks = Literal["levels", "tokens", "text"]
PlaygroundLanguage = Literal["en", "de"]
SourceFormat = Literal[
    "messages",
    "oasst",
    "helpsteer",
    "hh_rlhf",
    "self_identification",
    "nemo",
    "sharegpt",
    "alpaca",
    "table",
]


def format_and_path(text: str) -> tuple[SourceFormat | None, Path]:
    """Take `FORMAT:PATH` apart; None where only a path is given."""
    before, colon, rest = text.partition(":")
    known: dict[str, SourceFormat] = {name: name for name in get_args(SourceFormat)}
    return (known[before], Path(rest)) if colon and before in known else (None, Path(text))


class SourceConfig(Section):
    """One data set."""

    name: str = Field(description="Name of the source; every record carries it.", pattern=r"^[A-Za-z0-9_.-]+$")
    format: SourceFormat = Field(description="Which importer reads it.")
    path: Path | None = Field(
        None, description="A local file (.jsonl, .json, .csv, .tsv, each also .gz, or .parquet) or folder."
    )
    hub: str | None = Field(None, description="A data set id for the `datasets` library (needs the `data` extra).")
    hub_split: str = Field("train", description="Split of the hub data set.")
    columns: dict[str, str] = Field(
        {},
        description="What is read -> the data's column of another name: `{prompt: player, response: reply, "
        "system: npc, rating.humor: funny}`.",
    )
    preference: str | None = Field(
        None,
        description="Attribute of which people's comparison of responses is a rating: of a pair (`hh_rlhf`) the chosen "
        "response gets its best level and the rejected one its worst; ranked replies (`oasst`) stand at equal steps.",
    )
    max_records: int | None = Field(None, ge=1, description="Read at most so many records.")
    weight: float = Field(1.0, gt=0, description="Share of its records that an SFT epoch draws (1 = all).")
    epochs: int = Field(1, ge=1, description="How often each drawn record occurs within one SFT epoch.")

    @model_validator(mode="after")
    def _one_origin(self) -> SourceConfig:
        if (self.path is None) == (self.hub is None):
            raise ValueError(f"source {self.name!r} needs exactly one of path, hub")
        return self


class PlaygroundConfig(Section):
    """The embedded generated world; present only in recipes that use it."""

    languages: tuple[PlaygroundLanguage, ...] = Field(
        ("en",), min_length=1, description="Languages of the world, which get equally many questions: en, de."
    )
    labelled_languages: tuple[PlaygroundLanguage, ...] | None = Field(
        None, min_length=1, description="Languages in which people rate replies; null: all. The rest has no labels."
    )
    other_language_fraction: float = Field(
        0.0, ge=0, le=1, description="Share of replies that are in another language than their question."
    )
    num_prompts: int = Field(3600, ge=100, description="Number of distinct first questions in the generated data.")
    responses_per_prompt: int = Field(2, ge=1, description="Dialogues per question, with replies of different quality.")
    multi_turn_fraction: float = Field(0.2, ge=0, le=1, description="Share of questions with a follow-up question.")
    num_held_out: int = Field(192, ge=2, description="Number of questions kept for evaluation.")
    labelled_fraction: float = Field(0.7, gt=0, le=1, description="Share of questions whose replies people rated.")
    num_annotators: int = Field(6, ge=1, description="Simulated annotators, each with a bias of their own.")
    annotators_per_response: int = Field(1, ge=1, description="How many of them rate each reply.")
    annotator_bias: float = Field(0.3, ge=0, description="Standard deviation of an annotator's offset, in levels.")
    label_noise: float = Field(0.6, ge=0, description="Standard deviation of a single rating's noise, in levels.")
    missing_fraction: float = Field(0.05, ge=0, lt=1, description="Share of single ratings that are missing.")
    vocab_size: int = Field(2048, ge=512, description="Tokens of the base model's vocabulary, at most.")
    hidden_size: int = Field(128, ge=16, description="Width of the base model that is pretrained from scratch.")
    num_layers: int = Field(3, ge=1, description="Depth of the base model.")
    num_heads: int = Field(4, ge=1, description="Attention heads of the base model; divides its width.")
    pretrain_epochs: float = Field(1.2, gt=0, description="Passes of the base model over the generated text.")
    tokens_per_batch: int = Field(512, ge=128, description="Tokens per step of the pretraining.")
    learning_rate: float = Field(4e-3, gt=0, description="Peak learning rate of the pretraining.")

    @model_validator(mode="after")
    def _known_languages(self) -> PlaygroundConfig:
        if len(set(self.languages)) < len(self.languages):
            raise ValueError(f"languages: {', '.join(self.languages)} names one twice")
        foreign = [language for language in self.labelled_languages or () if language not in self.languages]
        if foreign:
            raise ValueError(f"labelled_languages: {foreign[0]!r} is none of the languages {', '.join(self.languages)}")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> PlaygroundConfig:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not an even multiple of num_heads {self.num_heads}: every head is "
                "equally wide, and rotary positions need pairs"
            )
        return self

    @property
    def intermediate_size(self) -> int:
        """Width of the base model's MLPs: 8/3 of the model's as in Llama, rounded up to what matrix kernels multiply at
        their fastest (on a CPU, products with 341 columns take a tenth longer than with 352)."""
        return -(-8 * self.hidden_size // 3 // 32) * 32


class PrepareConfig(Section):
    """Import, deduplicate, split, check for leaks."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1, description="The data sets, in order.")
    validation_fraction: float = Field(0.05, gt=0, lt=1, description="Share of prompts (or trees) held out.")
    deduplicate: bool = Field(True, description="Drop records whose messages occurred before.")
    skip_bad_records: bool = Field(False, description="Count and list malformed records instead of stopping.")
    evaluation_prompts: tuple[Path, ...] = Field(
        (), description="Prompt files that must not occur in the data; records that hold one are dropped and counted."
    )


class LoraSection(Section):
    """Low-rank adapters instead of full fine-tuning."""

    rank: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, description="Scale of the adapters.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the adapters; slow on a CPU.")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="Modules that get an adapter.")
    quantize_4bit: bool = Field(False, description="QLoRA: load the base model in 4 bit (needs the `qlora` extra).")


class TrainingSection(Section):
    """What both training stages share."""

    base_model: str = Field(description="Hugging Face id or local folder of the model to start from.")
    template: TemplateChoice = Field(
        "auto",
        description="Chat template that is installed in the tokenizer: native = the model's own, which carries the "
        "header; auto = that where the base model has one, else `steerlm`.",
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int = Field(-1, ge=-1, description="Stop after so many optimizer steps (-1: by epochs).")
    learning_rate: float = Field(5e-6, gt=0, description="Peak learning rate.")
    lr_schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="Learning-rate schedule after the warm-up (both constant ones are the same)."
    )
    warmup_steps: int | float = Field(
        10,
        ge=0,
        description="Warm-up steps, or below 1 their share of the training; fewer where the whole training has no "
        "more. What trains a tuned model further (bootstrap, refine, contrast, reinforce) warms up for a tenth of its "
        "steps; with 0 it does not either.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="Second beta of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    max_length: int = Field(4096, ge=16, description="Context length in tokens.")
    tokens_per_batch: int = Field(
        16384, ge=16, description="Token budget of one batch on one device, padding included."
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="Batches per optimizer step.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="bf16 = autocast over fp32 weights; auto = bf16 where the device has it."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations to save memory.")
    lora: LoraSection | None = Field(None, description="Train adapters instead of all weights.")
    eval_steps: int | None = Field(
        None, ge=1, description="Validate (and keep a checkpoint) every so many steps; null: once an epoch."
    )
    max_checkpoints: int = Field(2, ge=1, description="Checkpoints kept on disk, beside the best one.")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Stop after so many validations without improvement."
    )
    report_to: tuple[str, ...] = Field(
        (), description="Loggers of the Hugging Face Trainer, for example tensorboard, wandb."
    )
    fsdp: bool = Field(False, description="Shard with FSDP2 (under accelerate launch or torchrun).")
    deepspeed: Path | None = Field(None, description="DeepSpeed configuration file.")
    init_seed: int | None = Field(None, description="Seed of this stage; null: the recipe's.")

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 steps train nothing; -1 trains by epochs")
        return value

    @property
    def sharded(self) -> bool:
        """Whether every device holds a part of the weights only."""
        return self.fsdp or self.deepspeed is not None


class TrainAttributeModelConfig(TrainingSection):
    """Step 1: the attribute prediction model."""

    kind: Literal["regression", "generative"] = Field(
        "regression", description="Regression head, or the paper's generative form."
    )
    early_stopping_patience: int | None = Field(
        3, ge=1, description="Stop after so many validations without improvement."
    )
    head_only: bool | None = Field(
        None,
        description="Stop once the head is fitted in closed form, and leave the base model as it is: a minute or a few "
        "on a CPU. null: for every encoder.",
    )
    readout: Literal["auto", "last"] = Field(
        "auto",
        description="What the head reads: auto = several layers over the response; last = one position of the last "
        "layer, trained by gradient steps alone, which servers such as vLLM's classify can express; so with lora, "
        "fsdp or deepspeed.",
    )
    label_count_power: float = Field(
        0.5,
        ge=0,
        le=1,
        description="An attribute of a source counts in fine-tuning by its number of labels to this power "
        "(0: all alike; 1: by their number).",
    )
    anchors: dict[str, str] = Field(
        {}, description="Attribute: the source whose use of the scale is the common one, where several rate it."
    )

    @property
    def fits_head(self) -> bool:
        """Whether a head is fitted in closed form over several layers; the others read the last token alone."""
        plain = self.readout == "last" or self.lora is not None or self.sharded
        return self.kind == "regression" and not plain


def scoring_tokens(cpu: bool, generative: bool = False) -> int:
    """Return how many tokens a scoring batch has unless told.

    On a CPU no more than its caches hold well; more where labels are written, which takes passes of one token per row.
    """
    if not cpu:
        return 16384
    return 8192 if generative else 4096


class LabelConfig(Section):
    """Who rates the turns of attributes that say `judge`: an OpenAI-compatible endpoint (needs the `judge` extra)."""

    model: str | None = Field(None, description="Name of the model; null: STEERLM_JUDGE_MODEL.")
    base_url: str | None = Field(None, description="OpenAI-compatible endpoint; null: OPENAI_BASE_URL, or OpenAI's.")
    folder: Path | None = Field(
        None, description="Where its replies are kept, so that nothing is paid for twice; null: `judge` in run_dir."
    )
    max_in_flight: int = Field(8, ge=1, description="Requests under way at once.")
    language: RubricLanguage = "en"
    reasoning: bool = Field(
        False, description="It thinks first: no temperature, `max_completion_tokens`, and room to think."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Its longest output, thinking included; null: 512, and 8192 more where it thinks."
    )
    price_per_million: tuple[float, float] | None = Field(
        None, description="Price of a million tokens in and out, for the cost that is said before it is spent."
    )


class AnnotateConfig(Section):
    """Step 2: label every assistant turn with the attribute model."""

    labels: Literal["all", "missing"] = Field(
        "all", description="Which turns of an attribute are labelled: all, or those that people have not labelled."
    )

    tokens_per_batch: int | None = Field(
        None,
        ge=16,
        description="Tokens of a scoring batch, padding included; null: 16384, on a CPU 4096 or (generative) 8192.",
    )
    window: int = Field(2048, ge=1, description="Records read ahead and sorted by length; bounds memory.")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Precision of scoring.")
    engine: ScoringEngine = Field(
        "local",
        description="What computes the attribute model: local (built in), or vllm (extra of the same name), for large "
        "models with a head on the last token (train_attribute_model.readout: last).",
    )
    devices_per_model: DevicesPerModel = 1


class TrainSftConfig(TrainingSection):
    """Step 3: attribute-conditioned supervised fine-tuning."""

    header: HeaderMarks = Field(
        "levels",
        description="How the header is written: levels = a new token per level of an attribute, which is learned from "
        "the fewest examples (scales of more than 16 levels, and template nemo: names and digits); tokens = names and "
        "digits between new tokens; text (template native) = names and digits between tokens that the model has and "
        "nobody uses, so that an adapter needs no token rows. A base that is a checkpoint of ours keeps its own.",
    )
    conditioning: bool = Field(True, description="False trains the plain SFT baseline on the same data.")
    labels: Literal["predicted", "human"] = Field("predicted", description="Which labels to condition on.")
    turns: Literal["all", "last"] = Field("all", description="Which assistant turns are trained.")
    attribute_dropout: float = Field(0.1, ge=0, lt=1, description="Probability of leaving out each single attribute.")
    header_dropout: float = Field(
        0.1, ge=0, lt=1, description="Probability of leaving out a turn's whole attribute header."
    )
    header_decoys: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of the prompts in which look-alikes of headers with random values stand in the text, so "
        "that the words of a label do nothing there.",
    )

    @property
    def further_warmup(self) -> float:
        """Warm-up, as a share, of what trains the tuned model further: often few steps, with an optimizer that has
        seen nothing yet."""
        return 0.1 if self.warmup_steps else 0.0


class BaselinesConfig(Section):
    """Alignment baselines beside SteerLM, at equal data and tokens; `steerlm baselines`."""

    sft_share: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="Share of the token budget that DPO and RLOO spend on plain SFT first; GRPO on conditioned SFT.",
    )
    dpo_learning_rates: tuple[float, ...] = Field(
        (1e-6,), min_length=1, description="Peak learning rates of DPO; the best by the attribute model counts."
    )
    dpo_beta: float = Field(0.1, gt=0, description="DPO's beta: how strongly it holds on to the SFT model.")
    dpo_batch_size: int = Field(32, ge=1, description="Pairs per optimizer step.")
    rloo_learning_rates: tuple[float, ...] = Field(
        (1e-6,), min_length=1, description="Learning rates of RLOO; the best by the attribute model counts."
    )
    rloo_beta: float = Field(0.05, ge=0, description="RLOO's and GRPO's weight of the divergence from the SFT model.")
    rloo_batch_size: int = Field(64, ge=2, description="Responses sampled per optimizer step.")
    grpo_learning_rates: tuple[float, ...] = Field(
        (1e-6,), min_length=1, description="Learning rates of GRPO for all dials; the best by its rewards counts."
    )
    num_generations: int = Field(4, ge=2, description="Responses per prompt in RLOO and GRPO; divides the batch.")

    @model_validator(mode="after")
    def _whole_groups(self) -> BaselinesConfig:
        if self.rloo_batch_size % self.num_generations:
            raise ValueError(
                f"rloo_batch_size {self.rloo_batch_size} is no multiple of num_generations {self.num_generations}"
            )
        return self


class Recipe(Section):
    """A reproducible run: the schema, and one section per stage."""

    name: str = Field(description="Name of the run.", pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = Field("", description="What it is for, what it needs and what it costs.")
    run_dir: Path = Field(description="Folder of the run.")
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    attributes: str | tuple[dict[str, object], ...] = Field(
        description="Name of a preset schema, or a list of attributes."
    )
    playground: PlaygroundConfig | None = None
    prepare: PrepareConfig
    label: LabelConfig = LabelConfig()
    train_attribute_model: TrainAttributeModelConfig | None = Field(
        None, description="null: no attribute model; every attribute has a measure, a classifier or labels in the data."
    )
    annotate: AnnotateConfig | None = AnnotateConfig()
    train_sft: TrainSftConfig
    bootstrap: BootstrapConfig | None = None
    refine: RefineConfig | None = None
    contrast: ContrastConfig | None = None
    reinforce: ReinforceConfig | None = None
    tune_guidance: TuneGuidanceConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    baselines: BaselinesConfig | None = None
    grow: GrowConfig | None = None

    @property
    def schema_(self) -> AttributeSchema:
        """The attribute schema."""
        if isinstance(self.attributes, str):
            return AttributeSchema.preset(self.attributes)
        return AttributeSchema.from_dict(self.attributes)

    @model_validator(mode="after")
    def _references(self) -> Recipe:
        schema = self.schema_
        self.evaluate.check(schema)
        if self.bootstrap is not None:  # the resolved copy says what counts as quality
            object.__setattr__(self, "bootstrap", self.bootstrap.with_quality(schema))
        self._check_tellers(schema)
        if self.bootstrap is not None:
            check_guidance("bootstrap.guidance", self.bootstrap.guidance, self.bootstrap.engine, schema)
            if self.train_sft.labels == "human":
                raise ValueError(
                    "train_sft.labels is human, but nobody labels bootstrapped samples: use labels: predicted, or "
                    "leave bootstrap out"
                )
            if not self.train_sft.conditioning:
                raise ValueError(
                    "train_sft.conditioning is false, but bootstrapping needs a model to ask for quality: set it to "
                    "true, or leave bootstrap out (--set bootstrap=null)"
                )
        if self.annotate is not None and self.annotate.engine == "vllm":
            self._check_vllm_labels()
        if self.tune_guidance is not None:
            self.tune_guidance.check(self.evaluate.engine)
        for name in ("refine", "contrast", "reinforce", "tune_guidance"):
            if getattr(self, name) is not None and not self.train_sft.conditioning:
                raise ValueError(
                    f"train_sft.conditioning is false, but {name} needs a model with dials: set it to true, or leave "
                    f"the section out (--set {name}=null)"
                )
        names = [source.name for source in self.prepare.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"prepare.sources: the name {name!r} stands twice")
        return self

    def _check_vllm_labels(self) -> None:
        learns = self.train_attribute_model
        if learns is not None and (learns.kind != "regression" or learns.fits_head):
            raise ValueError(
                "annotate.engine is vllm, which knows a head on the last token and no other: set "
                "train_attribute_model.readout to last (or lora, fsdp, deepspeed), or annotate.engine to local"
            )

    def _check_tellers(self, schema: AttributeSchema) -> None:
        """Refuse attributes whose value nobody will say."""
        unsaid = [attribute.name for attribute in schema if attribute.learned]
        needing = [name for name in ("refine", "contrast", "reinforce") if getattr(self, name) is not None]
        if self.bootstrap is not None and self.bootstrap.mode == "nearest":  # keeps what comes out as asked
            needing.insert(0, "bootstrap")
        if needing and self.train_attribute_model is None and unsaid:
            raise ValueError(
                f"{needing[0]} compares answers by what is said of them, and nothing says {', '.join(unsaid)}: add a "
                "section train_attribute_model, or a measure or classifier under `attributes`"
            )
        if self.train_attribute_model is None:
            for attribute in schema:
                if attribute.said_by == "judge":
                    raise ValueError(
                        f"attribute {attribute.name!r}: a judge's ratings teach an attribute model, but the recipe has "
                        "no section train_attribute_model"
                    )
                quality = () if self.bootstrap is None else self.bootstrap.quality_attributes
                if attribute.learned and attribute.name in quality:
                    raise ValueError(
                        f"bootstrap.quality_attributes: nothing says {attribute.name!r} of a sample; add "
                        "train_attribute_model, or a measure or classifier of it"
                    )
        if self.train_sft.labels == "human":
            for attribute in schema:
                if not attribute.learned:
                    raise ValueError(
                        f"train_sft.labels is human, but {attribute.name!r} is said by a {attribute.said_by}: use "
                        "labels: predicted"
                    )
