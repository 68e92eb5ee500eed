"""Step 1: train the attribute prediction model (SteerLM, section 3.1).

    steerlm train-attribute-model RECIPE

Reads the turns that people labelled, fits a regression head to them in closed form and fine-tunes the model from
there (or trains the paper's generative form), and reports per attribute how well held-out labels are predicted.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from steerlm.attributes import AttributeSchema
from steerlm.batching.batches import RegressionExamples
from steerlm.checkpoint.adapters import add_lora, merge_adapter
from steerlm.checkpoint.label_statistics import label_statistics
from steerlm.checkpoint.model_card import model_card
from steerlm.checkpoint.models import (
    CheckpointInfo,
    Precision,
    context_length,
    default_device,
    fingerprint,
    load_causal_lm,
    load_encoder,
    load_sequence_classifier,
    resize_embeddings,
    save_model,
)
from steerlm.config import SourceConfig, TrainAttributeModelConfig
from steerlm.errors import UserError
from steerlm.scorers.attribute_models import LoadedAttributeModel, loaded_attribute_model
from steerlm.scorers.cut_points import fit_cut_points
from steerlm.scorers.features import Readout
from steerlm.scorers.heads import FROZEN, HEAD_FILE
from steerlm.scorers.protocol import Scores
from steerlm.stages.train_attribute_model.centring import centre_head
from steerlm.stages.train_attribute_model.examples import (
    AttributeData,
    label_codes,
    read_attribute_data,
    require_all_labelled,
)
from steerlm.stages.train_attribute_model.fitting import Fitted, fit_all
from steerlm.stages.train_attribute_model.outputs import Tuned
from steerlm.stages.train_attribute_model.reading import FEATURES, TurnFeatures, readout_of, tunes
from steerlm.stages.train_attribute_model.report import (
    attribute_reports,
    coverage,
    dead_warnings,
    fit_reports,
    fit_warnings,
    fitted_curves,
    fitted_cut_points,
    fitted_intervals,
    held_out_intervals,
    label_warnings,
    residual_std,
    unmoved_warnings,
)
from steerlm.stages.train_attribute_model.tuning import held_out_turns, tune
from steerlm.storage.claims import claim, digest_of_file
from steerlm.storage.files import write_json
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.training.base_encoder import open_encoder
from steerlm.training.distributed import ranks
from steerlm.training.loop import BEST, train
from steerlm.training.trainer import Objective

_CUT_POINT_EXAMPLES = 4096
"""Training examples that show where predictions are cut into levels."""


def train_attribute_model(
    config: TrainAttributeModelConfig,
    train_data: Path,
    validation: Path,
    schema: AttributeSchema,
    out: Path,
    seed: int,
    data_schema: AttributeSchema | None = None,
    sources: Sequence[SourceConfig] = (),
) -> dict[str, Any]:
    """Train an attribute model and report on it.

    Args:
        train_data: JSONL of conversations; turns without human labels are passed over.
        validation: the same, held out; its loss picks the best weights.
        out: receives `model/` (a Hugging Face folder), `report.json`, `metrics.jsonl` and `checkpoints/`. Called again
            after an interruption, it goes on from the last checkpoint.
        data_schema: all attributes of the data; None: those that are learned.
        sources: their weights, from the recipe's `prepare` section.

    Returns:
        Numbers of turns, the course of the training, and per attribute n, error and correlation on validation data.

    Raises:
        UserError: no labelled turn, an attribute without any label, a base model that does not fit `kind`, a loss that
            is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(config, train_data, validation, schema, seed)
    share = {source.name: source.weight for source in sources if source.weight != 1}
    if share:
        inputs["weights"] = share
    claim(out / "inputs.json", inputs, otherwise="refuse", holds="an attribute model")
    report_path = out / "report.json"
    if report_path.is_file():
        return _summary(json.loads(report_path.read_text(encoding="utf-8")))
    _refuse_impossible(config)
    set_seed(seed)
    tokenizer, num_new, encoder = open_encoder(config, schema)
    readout = readout_of(config)

    def load_base() -> Any:
        model = _load_base(config, schema, readout)
        resize_embeddings(model, tokenizer, num_new)
        return model

    model = load_base()
    max_length = min(config.max_length, context_length(model.config, tokenizer))
    learned = read_attribute_data(
        train_data, encoder, config.kind, max_length, keep_turns=False, data_schema=data_schema
    )
    require_all_labelled(learned.labels_N_K, schema, train_data)
    held_out = read_attribute_data(
        validation, encoder, config.kind, max_length, keep_turns=True, data_schema=data_schema
    )
    report: dict[str, Any] = {
        "kind": config.kind,
        "base_model": base_name(config.base_model),
        "max_length": max_length,
        "train": _counts(learned),
        "validation": _counts(held_out),
    }
    warnings = _warnings(learned, held_out)
    if readout is None:
        trained = _train_whole(config, model, tokenizer, encoder, learned, held_out, out, seed)
    else:
        features = TurnFeatures(config, tokenizer, encoder, readout, learned, out / FEATURES)
        trained = _fit_and_tune(config, model, load_base, features, held_out, share, out, seed)
    del model  # another one may have taken its place
    report |= {"training": trained.course, "warnings": [*warnings, *trained.warnings]}
    if ranks().is_main_process:
        report |= _score_and_save(config, trained, tokenizer, learned, held_out, report, out, seed, readout)
        write_json(report_path, report)
        shutil.rmtree(out / FEATURES, ignore_errors=True)
    ranks().wait_for_everyone()
    return _summary(json.loads(report_path.read_text(encoding="utf-8")))


class _Trained(NamedTuple):
    """What training gave.

    Attributes:
        model: where it was trained whole, in one piece on the first rank only.
        course: of the training.
        warnings: for the report.
        fitted: of a head in closed form; None: the model has its own.
        frozen: the base model as it was, where the head reads that, too.
    """

    model: Any
    course: Mapping[str, Any]
    warnings: Sequence[str] = ()
    fitted: Fitted | None = None
    frozen: PreTrainedModel | None = None


def _fit_and_tune(
    config: TrainAttributeModelConfig,
    model: Any,
    load_base: Callable[[], Any],
    features: TurnFeatures,
    held_out: AttributeData,
    share: Mapping[str, float],
    out: Path,
    seed: int,
) -> _Trained:
    """Fit a head to a model's features, and fine-tune the model from there where that is wanted and helps.

    Args:
        load_base: returns the same model once more.
        features: of the training turns.
        share: weight of every source.
    """
    learned, readout = features.learned, features.readout
    course: Mapping[str, Any] = _UNTRAINED
    warnings: list[str] = []
    frozen: PreTrainedModel | None = None

    def fit(tuned: Tuned | None = None) -> Fitted:
        return fit_all(
            read_N_F, learned.labels_N_K, learned.schema, learned.sources, learned.groups, config.anchors, tuned=tuned
        )

    read_N_F = features.of(model, "frozen")
    fitted = fit()
    held_N = held_out_turns(learned.sources, learned.groups)
    if tunes(config) and held_N.any() and not held_N.all():
        # two models and an optimizer would not fit where one of them does
        frozen, model = model.to("cpu"), load_base()
        tuning = tune(
            config, model, features.tokenizer, features.encoder.control_ids, readout, read_N_F, fitted, learned, held_N,
            held_out, share, out, seed,
        )  # fmt: skip
        course, warnings = tuning.training, [*tuning.warnings]
        fitted = fit(Tuned(features.of(model, "tuned"), held_N))
        if not fitted.tuned:
            fitted, model, frozen = fitted.narrowed(read_N_F.shape[1]), frozen, None
    warnings += fit_warnings(fitted) + dead_warnings(fitted, readout, model.config.hidden_size)
    return _Trained(model, course, warnings, fitted, frozen)


def _train_whole(
    config: TrainAttributeModelConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoder: ConversationEncoder,
    learned: AttributeData,
    held_out: AttributeData,
    out: Path,
    seed: int,
) -> _Trained:
    """Train a model with a head of its own, or one that writes labels."""
    if isinstance(learned.examples, RegressionExamples):
        centre_head(model, learned)
    if config.lora is not None:
        model = add_lora(model, config.lora, encoder.new_ids)
    objective: Objective = "regression" if config.kind == "regression" else "sft"
    mine = learned.schema if config.kind == "regression" else None
    course = train(config, model, tokenizer, learned.examples, held_out.examples, objective, out, seed, mine)
    if ranks().is_main_process:
        model = _plain_model(config, model, tokenizer, out, course["best_step"])
    return _Trained(model, course)


_UNTRAINED: dict[str, object] = {
    "steps": 0,
    "epochs": 0.0,
    "train_loss": None,
    "last_validation_loss": None,
    "validation_loss": None,
    "best_step": 0,
    "early_stopped": False,
}


def _inputs(
    config: TrainAttributeModelConfig, train_data: Path, validation: Path, schema: AttributeSchema, seed: int
) -> dict[str, Any]:
    """Return all that the result depends on."""
    return {
        "train_attribute_model": config.model_dump(mode="json"),
        "data": digest_of_file(train_data),
        "validation": digest_of_file(validation),
        "schema": schema.to_dict(),
        "seed": seed,
    }


def _refuse_impossible(config: TrainAttributeModelConfig) -> None:
    if config.lora is None or config.kind == "generative":
        return
    if config.lora.quantize_4bit:
        raise UserError(
            "train_attribute_model.lora.quantize_4bit needs kind: generative; a regression head is not 4 bit"
        )
    if config.sharded:
        raise UserError("train_attribute_model: sharding (fsdp, deepspeed) with lora needs kind: generative")


def _load_base(config: TrainAttributeModelConfig, schema: AttributeSchema, readout: Readout | None) -> Any:
    if readout is not None:
        return load_encoder(config.base_model)
    if config.kind == "regression":
        return load_sequence_classifier(config.base_model, schema)
    if config.lora is None:
        return load_causal_lm(config.base_model)
    # frozen weights need no fp32 copy: bf16 where the device computes in it
    precision: Precision = "auto" if torch.cuda.is_available() and config.precision != "fp32" else "fp32"
    return load_causal_lm(config.base_model, precision, config.lora.quantize_4bit)


def _plain_model(
    config: TrainAttributeModelConfig, model: Any, tokenizer: PreTrainedTokenizerBase, out: Path, best_step: int
) -> PreTrainedModel:
    """Return the trained model in one piece and without adapters, which are kept beside it."""
    best = out / BEST if config.sharded else out / "checkpoints" / f"checkpoint-{best_step}"
    if config.lora is not None:
        # 4-bit weights would lose the adapter, and no rank holds sharded ones: read both again
        again = (best, config.base_model) if config.sharded or config.lora.quantize_4bit else None
        return merge_adapter(model, out / "adapter", tokenizer, again)
    if config.sharded:
        return load_causal_lm(best) if config.kind == "generative" else load_sequence_classifier(best)
    assert isinstance(model, PreTrainedModel)
    return model


def _score_and_save(
    config: TrainAttributeModelConfig,
    trained: _Trained,
    tokenizer: PreTrainedTokenizerBase,
    learned: AttributeData,
    held_out: AttributeData,
    report: dict[str, Any],
    out: Path,
    seed: int,
    readout: Readout | None,
) -> dict[str, Any]:
    """Score the held-out turns, save the model with that spread, and return what the report says of it."""
    schema, fitted = held_out.schema, trained.fitted
    statistics = label_statistics(label_codes(learned.labels_N_K, schema), schema)
    info = CheckpointInfo(
        kind=config.kind,
        schema=schema,
        template=config.template,
        label_statistics=statistics,
        provenance={
            "base_model": report["base_model"],
            "max_length": report["max_length"],
            "seed": seed,
            **({"taught_by": sorted(learned.judges)} if learned.judges else {}),
            "recipe": config.model_dump(mode="json", exclude={"base_model", "report_to", "deepspeed"}),
        },
    )
    head = None if fitted is None else fitted.head(readout)
    device = default_device()
    model, frozen = trained.model.to(device), None if trained.frozen is None else trained.frozen.to(device)
    scorer = loaded_attribute_model(model, tokenizer, info, "", config.precision, head=head, frozen=frozen)
    if fitted is not None:
        scorer = dataclasses.replace(scorer, cuts=fitted_cut_points(fitted, schema))
    elif config.kind == "regression":
        scorer = dataclasses.replace(scorer, cuts=_cut_points(scorer, learned, config.tokens_per_batch, seed))
    scores = _held_out_scores(scorer, held_out, fitted, config.tokens_per_batch)
    labels = dict(zip(schema.names, learned.labels_N_K.T.astype(np.float64), strict=True))
    report["warnings"] += unmoved_warnings(scores, {a.name: labels[a.name] for a in schema.ordinal})
    # without held-out labels the spread of the labels themselves is all that is known
    spread = {attribute.name: float(np.nanstd(labels[attribute.name])) for attribute in schema.ordinal}
    spread |= residual_std(held_out.turns, scores, schema)
    apart = fitted is not None and bool(fitted.calibrations)
    means = {source: _label_means(learned, source if apart else None) for source in set(held_out.sources)}
    of_turns = [means[source] for source in held_out.sources]
    known = {"residual_std": spread, "cut_points": scorer.cuts}
    found = known | attribute_reports(held_out.turns, scores, scorer.values, schema, of_turns, seed)
    statistics |= known
    if fitted is not None and readout is not None:
        control_ids = sorted(scorer.encoder.control_ids)
        statistics["readout"] = {**dataclasses.asdict(readout), "control_ids": control_ids, "tuned": fitted.tuned}
        curves, intervals = fitted_curves(fitted, schema), fitted_intervals(fitted, schema)
        statistics["intervals"] = intervals
        statistics["curves"] = {name: (curve.steps, curve.width) for name, curve in curves.items()}
        found["curves"] = {name: curve._asdict() for name, curve in curves.items()}
        found |= {"intervals": intervals, "fits": fit_reports(fitted, schema)}
        found["coverage"] = coverage(held_out.turns, scores, fitted, schema)
    else:
        intervals, covered = held_out_intervals(held_out.turns, scores, schema, seed)
        if intervals:
            statistics["intervals"] = intervals
            found |= {"intervals": intervals, "coverage": covered}
    info = dataclasses.replace(info, label_statistics=statistics)
    files = {} if head is None else {HEAD_FILE: head.to_bytes(), **_sentence_files(config.base_model)}
    parts = {} if frozen is None else {FROZEN: frozen}
    save_model(out / "model", model, tokenizer, info, _card(info, {**report, **found}), files, parts)
    return found


def _held_out_scores(
    scorer: LoadedAttributeModel, held_out: AttributeData, fitted: Fitted | None, tokens_per_batch: int
) -> list[Scores]:
    """Return the scores of the held-out turns: as the turn's source rates, where they differ."""

    def scored_by(model: LoadedAttributeModel, indices: Sequence[int]) -> list[Scores]:
        scored = model.score([held_out.turns[i].messages for i in indices], tokens_per_batch)
        scores = [score for score in scored if score is not None]
        assert len(scores) == len(indices), "only turns that fit are kept"
        return scores

    scores = scored_by(scorer, range(len(held_out.turns)))
    if fitted is not None and fitted.calibrations:
        for source in set(held_out.sources):
            mine = [i for i, other in enumerate(held_out.sources) if other == source]
            for i, score in zip(mine, scored_by(scorer.for_source(source), mine), strict=True):
                scores[i] = score
    return scores


_SENTENCE_FILES = (
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


def _sentence_files(base_model: str) -> dict[str, bytes]:
    """Return what makes a folder one of sentence-transformers, where the base model lies in one."""
    folder = Path(base_model)
    return {name: (folder / name).read_bytes() for name in _SENTENCE_FILES if (folder / name).is_file()}


def _label_means(data: AttributeData, source: str | None) -> dict[str, float]:
    """Return the mean label of every ordinal attribute: those of the source, where given and where it has some."""
    mine = np.array([source in (None, other) for other in data.sources])
    means = {}
    for column, attribute in enumerate(data.schema):
        if attribute.kind == "ordinal":
            labels_N = data.labels_N_K[:, column].astype(np.float64)
            of_source_N = labels_N[mine & ~np.isnan(labels_N)]
            means[attribute.name] = float(of_source_N.mean() if len(of_source_N) else np.nanmean(labels_N))
    return means


def _cut_points(
    scorer: LoadedAttributeModel, data: AttributeData, tokens_per_batch: int, seed: int
) -> dict[str, tuple[float, ...]]:
    """Fit the cuts on training examples: the few held-out ones would only fit their noise."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(data.labels_N_K))[:_CUT_POINT_EXAMPLES])
    scores = scorer.score_ids([data.examples.example(int(i), 0).input_ids.tolist() for i in rows], tokens_per_batch)
    labels = dict(zip(data.schema.names, data.labels_N_K[rows].T.astype(np.float64), strict=True))
    return {
        attribute.name: fit_cut_points(
            attribute, labels[attribute.name], np.array([score[attribute.name].mean for score in scores])
        )
        for attribute in data.schema.ordinal
    }


def _warnings(learned: AttributeData, held_out: AttributeData) -> list[str]:
    return label_warnings(learned.labels_N_K, learned.schema) + [
        f"{name} has no held-out label: nothing is known about how well it is predicted"
        for name, label_N in zip(held_out.schema.names, held_out.labels_N_K.T, strict=True)
        if np.isnan(label_N).all()
    ]


def base_name(base_model: str) -> str:
    """Return what identifies a base model wherever it lies: its hub id, or its folder's name and fingerprint."""
    folder = Path(base_model)
    return f"{folder.name} {fingerprint(folder)}" if folder.is_dir() else base_model


def _counts(data: AttributeData) -> dict[str, Any]:
    labels = (~np.isnan(data.labels_N_K)).sum(axis=0).tolist()
    return {
        "turns": len(data.labels_N_K),
        "too_long": data.num_too_long,
        "labels": dict(zip(data.schema.names, labels, strict=True)),
    }


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return what of the report goes into the run's record."""
    keys = ("n", "mae", "mean_baseline_mae", "spearman", "accuracy", "commonest_baseline_accuracy")
    attributes = {name: {k: row[k] for k in keys if k in row} for name, row in report["attributes"].items()}
    return {key: report[key] for key in ("kind", "train", "validation", "training", "warnings")} | {
        "attributes": attributes
    }


def _card(info: CheckpointInfo, report: dict[str, Any]) -> str:
    data = {
        "labelled_responses": report["train"]["turns"],
        "held_out_responses": report["validation"]["turns"],
        "responses_too_long": report["train"]["too_long"] + report["validation"]["too_long"],
        **{f"labels of {name}": n for name, n in report["train"]["labels"].items()},
    }
    results = {key: report["training"][key] for key in ("steps", "validation_loss", "best_step")}
    for name, row in report["attributes"].items():
        if "mae" in row:
            results[f"{name}: mean absolute error (of the mean)"] = (
                f"{row['mae']['value']:.3f} ({row['mean_baseline_mae']['value']:.3f})"
            )
        else:
            results[f"{name}: accuracy (of the commonest)"] = (
                f"{row['accuracy']['value']:.3f} ({row['commonest_baseline_accuracy']['value']:.3f})"
            )
    return model_card(info, data, results)
