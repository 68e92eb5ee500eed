"""Values of a recipe that fit a model and data, each with its reason (`steerlm init`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from steerlm.attributes import AttributeSchema
from steerlm.config import SourceConfig
from steerlm.planning.looking import DataLook, Lengths, ModelLook

_STEPS = 400
"""Optimizer steps that a training should have: four times what counts as few."""
_MOST_EPOCHS = 6
_ROWS, _MOST_ROWS = 4, {True: 16, False: 64}
"""Fewest and most conversations of a step, the latter on a CPU and elsewhere: a header is learned by steps, which a GPU
takes faster where they are large."""
_RATED_ROWS = 16
"""With fewer conversations a step is noisier, and adapters take a lower rate: on Gemma 3 270M four to a step at 1e-3
ended at a loss of 3.07 where sixteen ended at 2.63, after as many examples."""
_FULL, _FULL_ON_CPU = 1e9, 1e8
"""Parameters up to which all weights are trained, where they fit."""
_ADAM_BYTES = 16
_RATE, _RATED_SIZE = 1e-5, 7e9
"""Full fine-tuning of a model of 7 B at 1e-5; smaller models take more, by the root of their size."""
_RATES = (5e-6, 2e-3)
_LORA_FACTOR = 20
"""Rate of adapters: 1e-3 taught Gemma 3 270M its header (docs/results/real_model.md), 2e-4 is common for 7 B."""
_HELD_OUT_PROMPTS = 100
_EVALUATED = {True: 32, False: 64}


@dataclass(frozen=True)
class Chosen:
    """A value, and why it is this one."""

    value: object
    why: str = ""


Section = Mapping[str, "Chosen | Section"]


@dataclass(frozen=True)
class InitSetting:
    """What is chosen for.

    Attributes:
        encoder: base of the attribute model; None: none is needed.
        memory_gib: of a device.
        cpu: whether it is one.
        labelled: whether people have rated nearly all responses.
        most_tokens: of a batch that fits the device; None: not known.
    """

    model: ModelLook
    data: DataLook
    lengths: Lengths
    schema: AttributeSchema
    encoder: str | None
    memory_gib: float
    cpu: bool
    labelled: bool
    most_tokens: int | None = None

    @property
    def lora(self) -> bool:
        """Whether adapters are trained in place of all weights."""
        parameters = self.model.shape.parameters
        most = _FULL_ON_CPU if self.cpu else _FULL
        return parameters > most or _ADAM_BYTES * parameters / 2**30 > 0.6 * self.memory_gib


def held_out_fraction(data: DataLook) -> Chosen:
    """Return the share of the prompts that is held out."""
    share = min(0.2, max(0.02, _HELD_OUT_PROMPTS / data.prompts))
    prompts = round(share * data.prompts)
    return Chosen(round(share, 3), f"about {prompts} of {data.prompts:,} prompts to validate and evaluate on")


def training(setting: InitSetting) -> dict[str, Chosen | Section]:
    """Return the values of a training of the base model."""
    lengths, model = setting.lengths, setting.model
    fraction = held_out_fraction(setting.data).value
    assert isinstance(fraction, float)
    records = max(1, round(setting.data.records * (1 - fraction)))
    rows = min(max(_ROWS, round(records / 100)), _MOST_ROWS[setting.cpu])
    tokens = max(64, 64 * math.ceil(rows * lengths.record / 64))
    per_epoch = max(1, round(records * lengths.record / tokens))
    epochs = min(_MOST_EPOCHS, max(1, math.ceil(_STEPS / per_epoch)))
    steps = per_epoch * epochs
    values: dict[str, Chosen | Section] = {
        "base_model": Chosen(model.name, str(model)),
        "epochs": Chosen(epochs, f"about {steps:,} optimizer steps in all: a dial needs some hundreds"),
        "learning_rate": _rate(setting, rows),
        "warmup_steps": Chosen(min(20, max(2, steps // 20))),
        "max_length": _longest(setting),
        "tokens_per_batch": Chosen(
            tokens, f"about {max(1, round(tokens / lengths.record))} conversations of {lengths.record:.0f} tokens: "
            f"about {per_epoch:,} steps per epoch",
        ),
    }  # fmt: skip
    if setting.lora:
        size = f"{model.shape.parameters / 1e9:.1f} B parameters"
        where = "a CPU" if setting.cpu else f"{setting.memory_gib:.0f} GiB"
        values["lora"] = {
            "rank": Chosen(16, f"adapters: {size} with their optimizer are much for {where}"),
            "alpha": Chosen(32),
        }
    if setting.most_tokens is not None and tokens > setting.most_tokens:
        values["tokens_per_batch"] = Chosen(setting.most_tokens, "as many as fit this device")
        values["gradient_accumulation_steps"] = Chosen(
            math.ceil(tokens / setting.most_tokens), "so that a step is as large as it should be"
        )
    if epochs == 1:
        values["eval_steps"] = Chosen(max(1, steps // 4), "four validations in the one epoch")
    return values


def _rate(setting: InitSetting, rows: int) -> Chosen:
    size = setting.model.shape.parameters
    rate = min(max(_RATE * math.sqrt(_RATED_SIZE / size), _RATES[0]), _RATES[1])
    how = "all weights"
    if setting.lora:
        rate, how = rate * _LORA_FACTOR * min(1.0, math.sqrt(rows / _RATED_ROWS)), "adapters"
    return Chosen(
        float(f"{rate:.0e}"), f"for {how} of a model of this size and steps of this size; smaller models take more"
    )


def _longest(setting: InitSetting) -> Chosen:
    wanted = 64 * math.ceil((setting.lengths.longest + 16) / 64)
    if wanted > setting.model.context:
        lost = (
            f"{100 * setting.lengths.beyond:.1f} % of the conversations are longer: cut to their last turns or left out"
        )
        return Chosen(setting.model.context, f"all that the model takes; {lost}")
    return Chosen(wanted, f"99.5 % of the conversations have at most {setting.lengths.longest} tokens")


def attribute_model(setting: InitSetting) -> Section | None:
    """Return the section of the attribute model; None where no attribute needs one."""
    if setting.encoder is None:
        return None
    if setting.encoder != setting.model.name:
        return {"base_model": Chosen(setting.encoder, "an encoder: its head is fitted in a minute")}
    return {
        "base_model": Chosen(setting.encoder, "no encoder is at hand; one (--encoder) learns more from few ratings"),
        "head_only": Chosen(True, "a head on what the model sees, fitted in closed form: few ratings teach no more"),
        "max_length": _longest(setting),
    }


def evaluation(setting: InitSetting) -> Section:
    """Return the section of the evaluation."""
    fraction = held_out_fraction(setting.data).value
    assert isinstance(fraction, float)
    prompts = max(8, min(_EVALUATED[setting.cpu], round(fraction * setting.data.prompts)))
    longest = min(32 * math.ceil(1.25 * setting.lengths.response / 32), max(32, setting.model.context // 2))
    return {
        "num_prompts": Chosen(prompts, "held-out prompts; more of them narrow the intervals and take as much longer"),
        "max_new_tokens": Chosen(longest, f"99 % of the replies have at most {setting.lengths.response} tokens"),
    }


def sections(
    setting: InitSetting, source: SourceConfig, name: str, seed: int
) -> tuple[Mapping[str, Chosen], Mapping[str, Chosen | Section]]:
    """Return a whole recipe: what stands at its head, and the sections of its stages."""
    run_dir = f"runs/{name}"
    head = {
        "name": Chosen(name),
        "description": Chosen(f"{', '.join(setting.schema.names)} on {source.path or source.hub}"),
        "run_dir": Chosen(run_dir),
        "seed": Chosen(seed),
    }
    row = {key: value for key, value in source.model_dump(mode="json", exclude_defaults=True).items() if value}
    body: dict[str, Chosen | Section] = {
        "prepare": {
            "sources": Chosen([row]),
            "validation_fraction": held_out_fraction(setting.data),
            **({"skip_bad_records": Chosen(True, f"first: {setting.data.first_bad}")} if setting.data.bad else {}),
        }
    }
    if any(attribute.judge for attribute in setting.schema):
        body["label"] = {
            "base_url": Chosen(None, "the judge's OpenAI-compatible endpoint; null: OPENAI_BASE_URL, or OpenAI's"),
            "model": Chosen(None, "its model; null: STEERLM_JUDGE_MODEL. OPENAI_API_KEY is its key"),
        }
    apart = attribute_model(setting)
    body["train_attribute_model"] = apart if apart is not None else Chosen(None, "no attribute needs one")
    sft = training(setting)
    if setting.labelled:
        body["annotate"] = Chosen(None, "people rated nearly every reply: the attribute model only measures the dials")
        sft["labels"] = Chosen("human", "people's ratings are trained on as they are")
    body["train_sft"] = sft
    body["evaluate"] = evaluation(setting)
    return head, body
