"""Real input: measure the finished run, on rows no stage has seen and on the sets it annotated.

    python recipes/real_input/measure.py --shared ../shared --run runs/real_input

Writes the numbers (no text of the data) to `docs/results/real_input/*.json`:

* `data.json`: what was converted, dropped and split, and why;
* `attribute_model.json`: per attribute and source, the attribute model, both baselines, their paired differences and,
  where an answer has several ratings, how well one of them predicts the others;
* `annotated.json`: distributions of the labels given to sets without any, and how labels agree with the preferences
  (hh_rlhf, of the test part) and ranks (open_assistant) that people gave;
* `pipeline.json`: the course of all stages, and what steering the fine-tuned model does.

Differences come from the same resamples of prompts for both predictors.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from baselines import Floats, Row, labelled_rows

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.models import fingerprint
from steerlm.config import load_recipe
from steerlm.conversation import Conversation, Message, read_conversations
from steerlm.results.codec import to_json
from steerlm.results.evaluation import evaluation_file
from steerlm.scorers.attribute_models import load_attribute_model
from steerlm.statistics.estimates import Weights, cluster_bootstrap, divide, mean, mean_absolute_error, spearman
from steerlm.statistics.metrics import fleiss_kappa, human_ceiling, regression_report
from steerlm.storage.files import write_json

RECIPE = Path(__file__).with_name("recipe.yaml")
UNLABELLED = ("model_self_identification", "open_assistant")
STAGES = ("prepare", "train_attribute_model", "annotate", "train_sft", "bootstrap", "evaluate")
Predictions = Mapping[str, Mapping[str, float]]
"""Attribute -> row key -> prediction."""


def load_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


# --- the attribute model on the test rows -----------------------------------------------------------------------------


class Predicted(NamedTuple):
    """What the attribute model says of the test rows, of each as its own source would rate it.

    Attributes:
        values: by attribute and key.
        spreads: likewise.
        too_long: rows that do not fit its context.
    """

    values: dict[str, dict[str, float]]
    spreads: dict[str, dict[str, float]]
    too_long: int


def predict(rows: Sequence[Row], model: Path, tokens_per_batch: int) -> Predicted:
    """Score every row."""
    scorer = load_attribute_model(model)
    predicted = Predicted(*({name: {} for name in scorer.schema.names} for _ in range(2)), 0)
    for source in sorted({row.source for row in rows}):
        mine = [row for row in rows if row.source == source]
        scored = scorer.for_source(source).score([row.messages for row in mine], tokens_per_batch)
        predicted = predicted._replace(too_long=predicted.too_long + sum(scores is None for scores in scored))
        for row, scores in zip(mine, scored, strict=True):
            for name, score in (scores or {}).items():
                predicted.values[name][row.key] = round(score.mean, 4)
                predicted.spreads[name][row.key] = round(score.std, 4)
    return predicted


def coverage(rows: Sequence[Row], name: str, predicted: Predicted, interval: float) -> dict[str, Any]:
    """Share of labels within the model's 90 % interval, and how the spread follows the error."""
    truth = np.array([row.targets[name] for row in rows])
    off = np.abs(truth - np.array([predicted.values[name][row.key] for row in rows]))
    spread = np.array([predicted.spreads[name][row.key] for row in rows])
    groups = [row.group for row in rows]
    return {
        "interval": interval,
        "covered": cluster_bootstrap(mean, [(off <= interval * spread).astype(float)], groups).to_dict(),
        "spread_follows_error": cluster_bootstrap(spearman, [off, spread], groups).to_dict(),
    }


def root_mean_squared_error(weights: Weights, truth_N: Floats, predicted_N: Floats) -> Floats:
    """Root of the mean squared error."""
    return np.sqrt(mean(weights, (truth_N - predicted_N) ** 2))


def roc_auc(weights: Weights, truth_N: Floats, predicted_N: Floats) -> Floats:
    """Area under the ROC curve of weighted samples; truth is 0 or 1."""
    weights_RN = weights.rows()
    order = np.argsort(predicted_N, kind="stable")
    _, starts = np.unique(predicted_N[order], return_index=True)
    positive = np.add.reduceat((weights_RN * truth_N)[:, order], starts, axis=1)
    negative = np.add.reduceat((weights_RN * (1 - truth_N))[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + negative / 2)).sum(axis=1)
    return divide(won, positive.sum(axis=1) * negative.sum(axis=1))


def cell(
    rows: Sequence[Row], attribute: Attribute, predictors: Mapping[str, Predictions], train_mean: float
) -> dict[str, Any]:
    """Compare the predictors on the rows of one attribute and source.

    Args:
        rows: labelled rows that every predictor has scored.
        attribute: the attribute.
        predictors: `model`, `ridge` and `mean`.
        train_mean: mean label of the source's training rows.
    """
    name = attribute.name
    groups = [row.group for row in rows]
    truth = np.array([row.targets[name] for row in rows])
    guess = {
        who: np.array([p[name][row.key] for row in rows]).clip(attribute.minimum, attribute.maximum)
        for who, p in predictors.items()
    }
    out: dict[str, Any] = {"n": len(rows), "groups": len(set(groups))}
    for who, predicted in guess.items():
        out[who] = regression_report(truth, predicted, attribute, groups, baseline=train_mean)
        out[who]["rmse"] = cluster_bootstrap(root_mean_squared_error, [truth, predicted], groups).to_dict()
        if attribute.maximum - attribute.minimum == 1 and set(truth.round()) == {0.0, 1.0}:
            area = cluster_bootstrap(roc_auc, [truth.round(), predicted], groups)
            out[who]["roc_auc"] = area.to_dict()
    statistics = {"mae": mean_absolute_error, "rmse": root_mean_squared_error, "spearman": spearman}
    for other in ("ridge", "mean"):
        out[f"model_minus_{other}"] = {
            key: cluster_bootstrap(
                lambda w, t, a, b, s=statistic: s(w, t, a) - s(w, t, b), [truth, guess["model"], guess[other]], groups
            ).to_dict()
            for key, statistic in statistics.items()
            if not (other == "mean" and key == "spearman")
        }
    ratings = [(row.messages[-1].ratings or {}).get(name, ()) for row in rows]
    if sum(len(r) > 1 for r in ratings) > len(rows) / 2:
        out["human_ceiling"] = human_ceiling(ratings, groups)
        if all(float(rating).is_integer() for r in ratings for rating in r):
            out["fleiss_kappa"] = fleiss_kappa(ratings, groups).to_dict()
    return out


def systems(rows: Sequence[Row], predictors: Mapping[str, Predictions]) -> dict[str, Any]:
    """Rank the systems whose Vicuna answers were judged by their mean quality: Spearman with the judge's ranking."""
    truth: dict[str, list[float]] = defaultdict(list)
    guess: dict[str, dict[str, list[float]]] = {who: defaultdict(list) for who in predictors}
    for row in rows:
        system = row.key.split("/")[0].removeprefix("vicuna-").rsplit("-", 1)[0]
        truth[system].append(row.targets["quality"])
        for who, p in predictors.items():
            guess[who][system].append(p["quality"][row.key])
    names = sorted(truth)
    true = np.array([np.mean(truth[name]) for name in names])
    out: dict[str, Any] = {"systems": len(names)}
    for who in ("model", "ridge"):
        predicted = np.array([np.mean(guess[who][name]) for name in names])
        out[who] = cluster_bootstrap(spearman, [true, predicted], names).to_dict()
    return out


def attribute_model_results(data: Path, run: Path, work: Path, schema: AttributeSchema) -> dict[str, Any]:
    """Test the attribute model beside both baselines."""
    test, train = labelled_rows(data / "test", schema), labelled_rows(data / "train", schema)
    tokens = load_recipe(RECIPE).annotate.tokens_per_batch
    predicted = predict(test, run / "train_attribute_model/model", tokens)
    model = predicted.values
    report = load_json(run / "train_attribute_model/report.json")
    fits = {(fit["attribute"], fit["source"]): fit for fit in report["fits"]}
    baselines = load_json(work / "baselines.json")
    predictors: dict[str, Predictions] = {"model": model, "ridge": baselines["ridge"], "mean": baselines["mean"]}
    cells: dict[str, Any] = {}
    for attribute in schema.ordinal:
        for source in sorted({row.source for row in test}):
            mine = [
                r for r in test if r.source == source and r.key in model[attribute.name] and attribute.name in r.targets
            ]
            labels = [r.targets[attribute.name] for r in train if r.source == source and attribute.name in r.targets]
            if mine:
                cells[f"{attribute.name}/{source}"] = {
                    "train_rows": len(labels),
                    "ridge_alpha": baselines["alpha"][attribute.name][source],
                    **cell(mine, attribute, predictors, float(np.mean(labels))),
                    **coverage(
                        mine,
                        attribute.name,
                        predicted,
                        fits.get((attribute.name, source), fits[attribute.name, None])["interval"],
                    ),
                }
    vicuna = [row for row in test if row.source == "vicuna" and row.key in model["quality"]]
    hits: list[float] = []
    groups: list[str] = []
    for name, found in cells.items():
        attribute_name, source = name.split("/")
        for row in test:
            if row.source == source and attribute_name in row.targets and row.key in model[attribute_name]:
                off = abs(row.targets[attribute_name] - model[attribute_name][row.key])
                hits.append(float(off <= found["interval"] * predicted.spreads[attribute_name][row.key]))
                groups.append(row.group)
    return {
        "macro_error_ratio": {
            who: float(np.mean([c[who]["rmse"]["value"] / c["mean"]["rmse"]["value"] for c in cells.values()]))
            for who in ("ridge", "model")
        },
        "covered": cluster_bootstrap(mean, [np.array(hits)], groups).to_dict(),
        "model": fingerprint(run / "train_attribute_model/model"),
        "schema": schema.signature,
        "test_rows": len(test),
        "too_long": predicted.too_long,
        "training": {key: report[key] for key in ("base_model", "train", "validation", "training", "warnings")},
        "fits": report["fits"],
        "cells": cells,
        "vicuna_systems": systems(vicuna, predictors),
    }


# --- the annotated sets -----------------------------------------------------------------------------------------------


def annotated(run: Path, schema: AttributeSchema) -> dict[str, list[Conversation]]:
    """Read the annotated conversations by source, training and validation part together."""
    by_source: dict[str, list[Conversation]] = defaultdict(list)
    for name in ("train.jsonl", "validation.jsonl"):
        for conversation in read_conversations(run / "annotate" / name, schema):
            by_source[conversation.source].append(conversation)
    return by_source


def distributions(conversations: Sequence[Conversation], schema: AttributeSchema) -> dict[str, Any]:
    """Histogram, mean and standard deviation of every attribute over the distinct assistant turns of a set."""
    turns: dict[tuple[str, ...], Message] = {}
    too_long = 0
    for c in conversations:
        for i in c.assistant_turns:
            if c.messages[i].scores is None:
                too_long += 1
            else:
                turns[tuple(m.content for m in c.messages[: i + 1])] = c.messages[i]
    out: dict[str, Any] = {"records": len(conversations), "distinct_turns": len(turns), "too_long": too_long}
    for attribute in schema.ordinal:
        scores = np.array([message.scores[attribute.name].mean for message in turns.values() if message.scores])
        levels = [message.attributes[attribute.name] for message in turns.values() if message.attributes]
        out[attribute.name] = {
            "mean": float(scores.mean()),
            "std": float(scores.std()),
            "histogram": {str(level): levels.count(level) for level in attribute.levels},
        }
    return out


def preferences(conversations: Sequence[Conversation], schema: AttributeSchema) -> dict[str, Any]:
    """How often the preferred response of an HH-RLHF pair gets the better label (a tie counts half).

    Only pairs that differ in their last turn alone are compared: both responses answer the same dialogue.
    """
    pairs: dict[str, dict[str, Conversation]] = defaultdict(dict)
    for conversation in conversations:
        stem, _, side = conversation.id.rpartition("-")
        pairs[stem][side] = conversation
    rows, groups, skipped = [], [], {"one_side_only": 0, "different_dialogue": 0, "too_long": 0}
    for pair in pairs.values():
        if len(pair) < 2:
            skipped["one_side_only"] += 1
            continue
        chosen, rejected = pair["chosen"], pair["rejected"]
        last = [c.messages[c.assistant_turns[-1]] for c in (chosen, rejected)]
        context = [[m.content for m in c.messages[: c.assistant_turns[-1]]] for c in (chosen, rejected)]
        if context[0] != context[1]:
            skipped["different_dialogue"] += 1
        elif any(message.scores is None for message in last):
            skipped["too_long"] += 1
        else:
            rows.append(last)
            groups.append(chosen.group)
    out: dict[str, Any] = {"pairs": len(rows), **skipped}
    lengths = np.array([[len(message.content) for message in pair] for pair in rows], dtype=float)
    shorter = lengths[:, 1] - lengths[:, 0]
    for attribute in schema.ordinal:
        sign = -1.0 if attribute.best == "min" else 1.0
        scores = np.array([[m.scores[attribute.name].mean for m in pair if m.scores] for pair in rows])
        out[attribute.name] = _won(sign * (scores[:, 0] - scores[:, 1]), shorter, groups)
    out["longer"] = _won(-shorter, shorter, groups)
    return out


def _won(differences: Floats, shorter: Floats, groups: Sequence[object]) -> dict[str, Any]:
    """Say how often the chosen response has the better value, and by how much more often than it is the shorter."""
    won, short = ((np.sign(x) + 1) / 2 for x in (differences, shorter))
    return {
        "share_better": cluster_bootstrap(mean, [won], groups).to_dict(),
        "mean_difference": cluster_bootstrap(mean, [differences], groups).to_dict(),
        "minus_shorter": cluster_bootstrap(mean, [won - short], groups).to_dict(),
    }


def ranks(conversations: Sequence[Conversation], trees: Path) -> dict[str, Any]:
    """Predicted quality against human rank among the replies to one message (open_assistant).

    Spearman within every set of sibling replies, averaged; and the share of sibling pairs in the right order (a tie
    counts half). Beside them the same with the length of the reply in place of its quality.
    """
    scores: dict[tuple[str, ...], float] = {}
    for c in conversations:
        for i in c.assistant_turns:
            found = c.messages[i].scores
            if found is not None:
                scores[tuple(m.content for m in c.messages[: i + 1])] = found["quality"].mean
    within: dict[str, list[float]] = {"quality": [], "length": []}
    ordered: dict[str, list[float]] = {"quality": [], "length": []}
    groups: list[str] = []
    pair_groups: list[str] = []
    unscored = 0
    for number, line in enumerate(trees.read_text(encoding="utf-8").splitlines()):
        pending = [(json.loads(line)["prompt"], ())]
        while pending:
            node, before = pending.pop()
            path = (*before, node["text"])
            replies = [r for r in node["replies"] if r["role"] == "assistant" and r.get("rank") is not None]
            known = [r for r in replies if (*path, r["text"]) in scores]
            unscored += len(replies) - len(known)
            pending += [(reply, path) for reply in node["replies"]]
            goodness = np.array([-float(r["rank"]) for r in known])
            if len(set(goodness)) < 2:
                continue
            values = {
                "quality": np.array([scores[(*path, r["text"])] for r in known]),
                "length": np.array([float(len(r["text"])) for r in known]),
            }
            first, second = np.triu_indices(len(known), 1)
            first, second = first[goodness[first] != goodness[second]], second[goodness[first] != goodness[second]]
            groups.append(f"tree {number}")
            pair_groups += [f"tree {number}"] * len(first)
            for what, x in values.items():
                rho = float(spearman(Weights(np.ones((1, len(x))), np.arange(len(x))), goodness, x)[0])
                within[what].append(0.0 if math.isnan(rho) else rho)
                agree = np.sign(goodness[first] - goodness[second]) * np.sign(x[first] - x[second])
                ordered[what] += ((agree + 1) / 2).tolist()
    beyond = np.array(within["quality"]) - np.array(within["length"])
    return {
        "beyond_length": cluster_bootstrap(mean, [beyond], groups).to_dict(),
        "sibling_sets": len(groups),
        "sibling_pairs": len(pair_groups),
        "replies_without_score": unscored,
        "spearman_within": {w: cluster_bootstrap(mean, [x], groups).to_dict() for w, x in within.items()},
        "pairs_in_order": {w: cluster_bootstrap(mean, [x], pair_groups).to_dict() for w, x in ordered.items()},
    }


def scored_pairs(data: Path, model: Path, schema: AttributeSchema) -> list[Conversation]:
    """Read the pairs of the test part, the last turn of each scored."""
    pairs = list(read_conversations(data / "test/hh_rlhf.jsonl", schema))
    scored = load_attribute_model(model).score(
        [pair.messages for pair in pairs], load_recipe(RECIPE).annotate.tokens_per_batch
    )
    return [
        replace(pair, messages=(*pair.messages[:-1], replace(pair.messages[-1], scores=scores)))
        for pair, scores in zip(pairs, scored, strict=True)
    ]


def annotated_results(data: Path, shared: Path, run: Path, schema: AttributeSchema) -> dict[str, Any]:
    """Describe the annotation of the unlabelled sets, and what people preferred beside what the model says."""
    sets = annotated(run, schema)
    trees = shared / "data/open_assistant/en_100_tree.jsonl"
    return {
        "model": fingerprint(run / "train_attribute_model/model"),
        "distributions": {name: distributions(sets[name], schema) for name in UNLABELLED},
        "hh_rlhf_preferences": preferences(scored_pairs(data, run / "train_attribute_model/model", schema), schema),
        "open_assistant_ranks": ranks(sets["open_assistant"], trees),
    }


# --- the run itself -------------------------------------------------------------------------------------------------


def data_results(data: Path, run: Path) -> dict[str, Any]:
    """What was read, kept and split."""
    report = load_json(run / "prepare/report.json")
    for source in report["sources"].values():
        source["bad"] = source["bad"]["count"]
    keep = ("train", "validation", "prompts_on_both_sides", "sources")
    return {"converted": load_json(data / "counts.json"), "prepared": {key: report[key] for key in keep}}


def pipeline_results(run: Path) -> dict[str, Any]:
    """Time and memory of every stage, the environment, and what the last three stages found."""
    done = {stage: load_json(run / stage / "done.json") for stage in STAGES if (run / stage / "done.json").exists()}
    cost = ("seconds", "cpu_seconds", "peak_memory_mib", "resumed")
    out: dict[str, Any] = {
        "model": fingerprint(run / "train_attribute_model/model"),
        "environment": load_json(run / "environment.json"),
        "stages": {stage: {key: record[key] for key in cost} for stage, record in done.items()},
    }
    if "evaluate" in done:
        out["train_sft"] = done["train_sft"]["summary"]
        out["bootstrap"] = bootstrap_results(load_json(run / "bootstrap/report.json"))
        out["steering"] = steering_results(run / "evaluate/results.json")
    return out


def bootstrap_results(report: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of the only round, and quality and error before and after it."""
    [last] = report["rounds"]
    counts = {key: value for key, value in last.items() if isinstance(value, int) and key != "round"}
    held_out = last["held_out"]
    return {"counts": counts, "held_out": {"quality": held_out["quality"], "error": held_out["error"]["mean"]}}


def steering_results(path: Path) -> dict[str, Any]:
    """Per model and dial how the obtained level follows the requested one; none of the examples' text."""
    results = evaluation_file(path)
    models: dict[str, Any] = {name: {} for name in results.models}
    for model, attribute, dial, _ in results.headline_dials():
        models[model][attribute] = to_json({"spearman": dial.spearman, "mae": dial.mae, "slope": dial.slope})
    return {"prompts": to_json(results.prompts), "asks": results.asks, "models": models}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--data", type=Path, default=Path("runs/real_input_data"))
    parser.add_argument("--run", type=Path, default=Path("runs/real_input"))
    parser.add_argument("--work", type=Path, default=Path("runs/real_input_results"), help="holds baselines.json")
    parser.add_argument("--out", type=Path, default=Path("docs/results/real_input"))
    arguments = parser.parse_args()
    schema = load_recipe(RECIPE).schema_
    run, out = arguments.run, arguments.out
    write_json(out / "data.json", data_results(arguments.data, run))
    write_json(out / "attribute_model.json", attribute_model_results(arguments.data, run, arguments.work, schema))
    write_json(out / "annotated.json", annotated_results(arguments.data, arguments.shared, run, schema))
    write_json(out / "pipeline.json", pipeline_results(run))


if __name__ == "__main__":
    main()
