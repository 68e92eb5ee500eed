"""The baselines as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.reporting.report import number
from steerlm.studies.ablate.tables import estimate, markdown_table, measured_by, seeds, setting_text


def baselines_table(results: Mapping[str, Any]) -> str:
    """The methods: what their answers are worth, whether they can be steered, and what they cost."""
    names = results["quality_attributes"]
    header = [
        "method",
        "reward",
        "each seed",
        "minus SteerLM",
        "reward by the attribute model",
        *names,
        "distinct-2",
        "unique answers per prompt",
        "slope of the dials",
        "tokens trained",
        "tokens sampled",
        "training time",
        "peak memory",
    ]
    rows = []
    for name, row in results["methods"].items():
        training, text = row["training"], row["text"]
        rows.append(
            [
                f"`{name}`",
                estimate(row["quality"]),
                seeds(row["quality"]),
                estimate(row["minus_steerlm"]["quality"]) if row["minus_steerlm"] else "–",
                estimate(row["by_annotator"]),
                *(estimate(row["attributes"].get(attribute)) for attribute in names),
                number(text["distinct_2"]),
                number(text["unique_per_prompt"]),
                estimate(row["steering"].get("slope")),
                _mean(training, "spent_tokens", 1e6, " M"),
                _mean(training, "sampled_tokens", 1e3, " k"),
                _mean(training, "seconds", 1, " s", 0),
                _mean(training, "peak_memory_mib", 1024, " GiB"),
            ]
        )
    return markdown_table(header, rows)


def _mean(training: Sequence[Mapping[str, Any]], key: str, unit: float, suffix: str, digits: int = 2) -> str:
    values = [row[key] for row in training if row[key] is not None]
    return number(sum(values) / len(values) / unit, digits) + suffix if values else "–"


def explain_baselines(results: Mapping[str, Any]) -> str:
    top, bottom = results["quality_scale"]
    names = ", ".join(results["quality_attributes"])
    methods = "; ".join(f"`{name}`: {row['what']}" for name, row in results["methods"].items())
    kept = {"best": "share", "dpo": "learning_rate", "rloo": "learning_rate"}
    chosen = "; ".join(
        f"`{name}` " + ", ".join(f"{row[key]:g}" for row in results["methods"][name]["training"])
        for name, key in kept.items()
    )
    shares = [trial["share"] for trial in results["methods"]["best"]["training"][0]["trials"]]
    tried = results["baselines"]
    return (
        f"{methods}.\n\n"
        f"Reward is the mean level of {names}, each counted towards its best end ({bottom} to {top}), of "
        f"{results['samples_per_prompt']} answers to each of {results['prompts']} held-out prompts, measured by "
        f"{measured_by(results)}; the attribute model optimised the same mean. SteerLM was asked for "
        f"{setting_text(results['best_setting'])}; the others hear no request. Slope of the dials: levels obtained per "
        f"level asked for, over all dials, on {results['swept']} prompts; 0 means that the request changes nothing. In "
        f"brackets: 95 % intervals from resampled prompts, {len(results['seeds'])} seed(s) pooled. Differences are "
        "paired by prompt and seed. Sampling: temperature "
        f"{results['settings']['temperature']}, top-k {results['settings']['top_k']}. Tokens trained are all that went "
        "through the model in training steps, prompts and epochs counted; passes of the reference, of the attribute "
        "model and of validation are not counted. Every method saw the same records and the same attribute model, "
        "whose own training is not in the table. SFT on the best records tried these shares of the budget: "
        f"{_listed(shares)}; DPO these learning rates: {_listed(tried['dpo_learning_rates'])}; RLOO "
        f"{_listed(tried['rloo_learning_rates'])}. The attribute model's reward on validation prompts chose, "
        f"per seed: {chosen}. Time is that of training; the peak of memory is "
        "the process's, including what it held before.\n"
    )


def _listed(values: Sequence[float]) -> str:
    return " and ".join(f"{value:g}" for value in values)
