"""Step 1: train the attribute prediction model (SteerLM, section 3.1).

    steerlm train-attribute-model RECIPE

Reads the turns that people labelled, trains a regression head (or the paper's generative form) on them, keeps the
weights with the lowest validation loss, and reports per attribute how well held-out labels are predicted.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from steerlm.attribute_data import AttributeData, label_statistics, read_attribute_data, require_all_labelled
from steerlm.attribute_report import attribute_reports, label_warnings, residual_std
from steerlm.attributes import AttributeSchema
from steerlm.batching import RegressionExamples
from steerlm.config import TrainAttributeModelConfig
from steerlm.conversation import Score
from steerlm.errors import UserError
from steerlm.files import write_json
from steerlm.models import (
    CheckpointInfo,
    add_lora,
    default_device,
    fingerprint,
    load_causal_lm,
    load_sequence_classifier,
    load_tokenizer,
    resize_embeddings,
    save_model,
)
from steerlm.scoring import context_length, make_scorer
from steerlm.template import ConversationEncoder, install_template
from steerlm.training import train

_HEAD_EXAMPLES = 8
"""Examples that show where the inputs of a head without bias lie."""


def train_attribute_model(
    config: TrainAttributeModelConfig, train_data: Path, validation: Path, schema: AttributeSchema, out: Path, seed: int
) -> dict[str, Any]:
    """Train an attribute model and report on it.

    Args:
        config: the recipe's section.
        train_data: JSONL of conversations; turns without human labels are passed over.
        validation: the same, held out; its loss picks the best weights.
        schema: the attributes.
        out: receives `model/` (a Hugging Face folder), `report.json`, `metrics.jsonl` and `checkpoints/`. Called again
            after an interruption, it goes on from the last checkpoint.
        seed: of everything random.

    Returns:
        Numbers of turns, the course of the training, and per attribute n, error and correlation on validation data.

    Raises:
        UserError: no labelled turn, an attribute without any label, a base model that does not fit `kind`, a loss that
            is not finite.
    """
    report_path = out / "report.json"
    if report_path.is_file():
        return _summary(json.loads(report_path.read_text(encoding="utf-8")))
    set_seed(seed)
    tokenizer = load_tokenizer(config.base_model)
    if tokenizer.bos_token is None and tokenizer.cls_token is not None:
        # BERT reads its verdict off the first token, which it knows as [CLS]
        tokenizer.bos_token = tokenizer.cls_token
    install_template(tokenizer, config.template, schema)
    encoder = ConversationEncoder(tokenizer, schema)
    model = _load_base(config, schema)
    resize_embeddings(model, tokenizer)
    max_length = min(config.max_length, context_length(model, tokenizer))
    learned = read_attribute_data(train_data, encoder, config.kind, max_length, keep_turns=False)
    require_all_labelled(learned.labels_N_K, schema, train_data)
    held_out = read_attribute_data(validation, encoder, config.kind, max_length, keep_turns=True)
    if isinstance(learned.examples, RegressionExamples):
        centre_head(model, learned, schema)
    trained: Any = model
    if config.lora is not None:
        trained = add_lora(model, config.lora, sorted(encoder.control_ids))
    regression = config.kind == "regression"
    course = train(
        config,
        trained,
        tokenizer,
        learned.examples,
        held_out.examples,
        "regression" if regression else "sft",
        out,
        seed,
        schema if regression else None,
    )
    if config.lora is not None:
        model = trained.merge_and_unload()
    report = _finish(config, model, tokenizer, schema, learned, held_out, max_length, out, seed)
    report["training"] = course
    write_json(report_path, report)
    return _summary(report)


def _load_base(config: TrainAttributeModelConfig, schema: AttributeSchema) -> PreTrainedModel:
    quantize = config.lora is not None and config.lora.quantize_4bit
    if config.kind == "generative":
        return load_causal_lm(config.base_model, quantize_4bit=quantize)
    if quantize:
        raise UserError(
            "train_attribute_model.lora.quantize_4bit needs kind: generative; a regression head is not 4 bit"
        )
    return load_sequence_classifier(config.base_model, schema)


def centre_head(model: PreTrainedModel, data: AttributeData, schema: AttributeSchema) -> None:
    """Set the regression head so that it predicts the mean of the training labels, whatever it reads.

    A random head starts with an error that the first, most expensive steps only go to undo. Where the head has no
    bias (decoders), its weights are the mean prediction along the mean of its inputs over a few examples.

    Args:
        model: a sequence classifier.
        data: the training data, with `RegressionExamples`.
        schema: the attributes.
    """
    means_O = mean_outputs(data, schema)
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == len(means_O)]
    assert heads, "the sequence classifier has no linear head"
    head = heads[-1]
    with torch.no_grad():
        if head.bias is not None:
            head.weight.zero_()
            head.bias.copy_(means_O)
        else:
            input_H = _mean_head_input(model, head, data)
            head.weight.copy_(torch.outer(means_O, input_H / input_H.dot(input_H)))


def mean_outputs(data: AttributeData, schema: AttributeSchema) -> Tensor:
    """Return the outputs (O,) of the best constant prediction: mean on the unit scale, log shares of categories."""
    outputs: list[float] = []
    for attribute, statistics in zip(schema, label_statistics(data.labels_N_K, schema).values(), strict=True):
        if attribute.kind == "ordinal":
            outputs.append(attribute.to_unit(statistics["mean"]))
        else:
            # one more of each, so that a category that does not occur has a finite logit
            counts = torch.tensor([n + 1.0 for n in statistics["histogram"].values()])
            outputs += (counts / counts.sum()).log().tolist()
    return torch.tensor(outputs)


def _mean_head_input(model: PreTrainedModel, head: nn.Linear, data: AttributeData) -> Tensor:
    """Return the mean (H,) of what the head reads at the last token of a few examples."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].reshape(-1, inputs[0].shape[-1])[-1])
    )
    model.eval()
    for index in range(min(_HEAD_EXAMPLES, len(data.labels_N_K))):
        ids = torch.from_numpy(data.examples.example(index, 0).input_ids.astype("int64"))
        model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None])
    hook.remove()
    return torch.stack(seen).mean(dim=0)


def _finish(
    config: TrainAttributeModelConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    schema: AttributeSchema,
    learned: AttributeData,
    held_out: AttributeData,
    max_length: int,
    out: Path,
    seed: int,
) -> dict[str, Any]:
    """Score the held-out turns, save the model with its measured spread, and return the report."""
    statistics = label_statistics(learned.labels_N_K, schema)
    info = CheckpointInfo(
        kind=config.kind,
        schema=schema,
        template=config.template,
        label_statistics={"attributes": statistics},
        provenance={
            "base_model": base_name(config.base_model),
            "max_length": max_length,
            "recipe": config.model_dump(mode="json", exclude={"base_model", "report_to", "deepspeed"}),
        },
    )
    scorer = make_scorer(model.to(default_device()), tokenizer, info, "", config.precision)
    scored = scorer.score([turn.messages for turn in held_out.turns], config.tokens_per_batch)
    scores: list[dict[str, Score]] = [score for score in scored if score is not None]
    assert len(scores) == len(held_out.turns), "only turns that fit are kept"
    means = {attribute.name: statistics[attribute.name]["mean"] for attribute in schema.ordinal}
    spread = {attribute.name: statistics[attribute.name]["std"] for attribute in schema.ordinal}
    spread |= residual_std(held_out.turns, scores, schema)
    warnings = label_warnings(learned.labels_N_K, schema)
    warnings += [
        f"{attribute.name} has no held-out label: nothing is known about how well it is predicted"
        for attribute in schema
        if not any(attribute.name in turn.labels for turn in held_out.turns)
    ]
    report = {
        "kind": config.kind,
        "base_model": base_name(config.base_model),
        "max_length": max_length,
        "train": _counts(learned, schema),
        "validation": _counts(held_out, schema),
        "residual_std": spread,
        "warnings": warnings,
        **attribute_reports(held_out.turns, scores, [scorer.values(score) for score in scores], schema, means, seed),
    }
    info = dataclasses.replace(info, label_statistics={"attributes": statistics, "residual_std": spread})
    save_model(out / "model", model, tokenizer, info, _card(info, report))
    return report


def base_name(base_model: str) -> str:
    """Return what identifies a base model wherever it lies: its hub id, or its folder's name and fingerprint."""
    folder = Path(base_model)
    return f"{folder.name} {fingerprint(folder)}" if folder.is_dir() else base_model


def _counts(data: AttributeData, schema: AttributeSchema) -> dict[str, Any]:
    labels = {name: row["n"] for name, row in label_statistics(data.labels_N_K, schema).items()}
    return {"turns": len(data.labels_N_K), "too_long": data.num_too_long, "labels": labels}


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return what of the report goes into the run's record."""
    keys = ("n", "mae", "mean_baseline_mae", "spearman", "accuracy", "commonest_baseline_accuracy")
    attributes = {name: {k: row[k] for k in keys if k in row} for name, row in report["attributes"].items()}
    return {key: report[key] for key in ("kind", "train", "validation", "training", "warnings")} | {
        "attributes": attributes
    }


def _card(info: CheckpointInfo, report: dict[str, Any]) -> str:
    rows = []
    for name, row in report["attributes"].items():
        if "mae" in row:
            rows.append(
                f"| {name} | {row['n']} | {row['mae']['value']:.3f} | {row['mean_baseline_mae']['value']:.3f} |"
            )
    return "\n".join(rows)
