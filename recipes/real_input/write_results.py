"""Real input: write `docs/results/real_input.md` from the result files beside it.

python recipes/real_input/write_results.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.storage.files import atomic_writer

RESULTS = Path(__file__).resolve().parents[2] / "docs/results/real_input"

SOURCES = {
    # name: (what is rated and by whom, origin and licence)
    "vicuna": ("answers of 35 systems to 80 questions, GPT-4, both orders", "artidoro/qlora, MIT"),
    "diasafety": ("safe or unsafe in context, people", "thu-coai/DiaSafety, Apache-2.0"),
    "usr": ("dialogue responses, means of three people", "UniEval's copy of USR, MIT"),
    "topical_chat": ("turns between two people, the partner", "alexa/Topical-Chat, CDLA-Sharing-1.0"),
    "conture": ("chatbot turns, majority of three people", "alexa/conture, CC BY 4.0"),
    "hh_rlhf": ("which of two responses is less harmful, people", "anthropics/hh-rlhf, MIT"),
    "model_self_identification": ("-", "lm-sys/FastChat, Apache-2.0"),
    "open_assistant": ("-", "LAION-AI/Open-Assistant, Apache-2.0"),
}


def number(estimate: Mapping[str, Any] | None, digits: int = 2, sign: bool = False) -> str:
    """Format an estimate with its interval: `0.78 [0.70, 0.84]`."""
    if estimate is None or estimate["value"] is None:
        return "-"
    form = f"{'+' if sign else ''}.{digits}f"
    text = format(estimate["value"], form)
    if estimate["low"] is None:
        return text
    return f"{text} [{format(estimate['low'], form)}, {format(estimate['high'], form)}]"


def percent(estimate: Mapping[str, Any]) -> str:
    """Format a share with its interval."""
    scaled = {key: None if estimate[key] is None else 100 * estimate[key] for key in ("value", "low", "high")}
    return number(scaled, 1)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a Markdown table."""
    out = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*out, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows), ""]


def verdict(difference: Mapping[str, Any], better: str) -> str:
    """Say whether the interval of a difference excludes zero, and on which side; `better` is `low` or `high`."""
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "no clear difference"
    return "better" if (difference["high"] < 0) == (better == "low") else "worse"


def data_section(data: Mapping[str, Any]) -> list[str]:
    """What was read, kept and split."""
    prepared = data["prepared"]["sources"]
    rows = []
    for name, source in prepared.items():
        test = data["converted"].get(name, {}).get("test_records", "-")
        rows.append([f"`{name}`", *SOURCES[name], source["train"], source["validation"], test])
    dropped = [
        f"* `{name}`: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in counts.items())
        for name, counts in data["converted"].items()
    ]
    return [
        "## Data",
        "",
        "Records (conversations) per part. The split is by prompt or dialogue; dialogues that occur in two sources stay"
        " together. The test part is set aside by `convert.py` before any stage runs.",
        "",
        *table(["source", "what is rated, by whom", "origin, licence", "train", "validation", "test"], rows),
        "What the converter met (the traps are described in `public_data.py`):",
        "",
        *dropped,
        "",
    ]


def attribute_section(results: Mapping[str, Any]) -> list[str]:
    """The attribute model beside both baselines."""
    training = results["training"]
    cells = results["cells"]
    rows = []
    for name, cell in cells.items():
        attribute, source = name.split("/")
        rows.append(
            [
                attribute,
                source,
                cell["train_rows"],
                f"{cell['n']} ({cell['groups']})",
                number(cell["mean"]["mae"]),
                number(cell["ridge"]["mae"]),
                number(cell["model"]["mae"]),
                number(cell["ridge"]["spearman"]),
                number(cell["model"]["spearman"]),
            ]
        )
    head = ["attribute", "source", "train rows", "test rows (groups)", "MAE mean", "MAE ridge", "MAE model"]
    out = [
        "## Attribute model on held-out prompts",
        "",
        f"One MiniLM (22 M parameters) with a head in closed form, fitted to {training['train']['turns']} labelled "
        "turns; nothing in it is random. `mean` and `ridge` (frozen sentence embeddings of response and dialogue, and "
        "lengths) are fitted per attribute *and* source, on training and validation rows together; the attribute model "
        "is one model for all, fitted to the training rows, and each test row is predicted as its own source rates. "
        f"{results['too_long']} of {results['test_rows']} test turns do not fit its 512 tokens and are left out for "
        "all three. Errors are on the attribute's own scale; brackets are 95 % intervals from resampled prompts.",
        "",
        *table([*head, "Spearman ridge", "Spearman model"], rows),
    ]
    macro = results["macro_error_ratio"]
    out += [
        "Root mean squared error over that of the mean, averaged over the rows of the table: "
        f"ridge {macro['ridge']:.3f}, model {macro['model']:.3f} ({100 * (1 - macro['model'] / macro['ridge']):.1f} % "
        "less).",
        "",
    ]
    rows = []
    for name, cell in cells.items():
        mae, rmse, rho = (cell["model_minus_ridge"][key] for key in ("mae", "rmse", "spearman"))
        against_mean = cell["model_minus_mean"]["rmse"]
        rows.append(
            [
                *name.split("/"),
                f"{number(mae, 3, True)}: {verdict(mae, 'low')}",
                f"{number(rmse, 3, True)}: {verdict(rmse, 'low')}",
                f"{number(rho, 3, True)}: {verdict(rho, 'high')}",
                f"{number(against_mean, 3, True)}: {verdict(against_mean, 'low')}",
            ]
        )
    out += [
        "Paired differences, model minus baseline (negative error and positive Spearman are in the model's favour):",
        "",
        *table(["attribute", "source", "MAE - ridge", "RMSE - ridge", "Spearman - ridge", "RMSE - mean"], rows),
    ]
    rows = [
        [
            *name.split("/"),
            *(number(cell["model"][key]) for key in ("pearson", "quadratic_weighted_kappa", "error_ratio", "rmse")),
            number(cell["model"].get("roc_auc"), 3),
            number(cell["ridge"].get("roc_auc"), 3),
        ]
        for name, cell in cells.items()
    ]
    head = ["attribute", "source", "Pearson", "weighted kappa", "MAE / MAE of mean", "RMSE", "ROC AUC", "ROC AUC ridge"]
    out += ["Further figures of the model:", "", *table(head, rows)]
    rows = [
        [
            *name.split("/"),
            number(cell["human_ceiling"]["mae"]),
            number(cell["human_ceiling"]["spearman"]),
            number(cell["model"]["spearman"]),
            number(cell.get("fleiss_kappa")),
        ]
        for name, cell in cells.items()
        if "human_ceiling" in cell
    ]
    head = [
        "attribute",
        "source",
        "MAE of one rating",
        "Spearman of one rating",
        "Spearman of the model",
        "Fleiss' kappa",
    ]
    out += [
        "Agreement of the raters on the same rows: how well one rating predicts the mean of the others (for `vicuna`: "
        "the judge's score in one order against that in the other).",
        "",
        *table(head, rows),
    ]
    covered = results["covered"]
    out += [
        f"90 % intervals hold {percent(covered)} % of the labels of the test rows:",
        "",
        *table(
            ["attribute", "source", "labels inside, %", "Spearman of spread and error"],
            ([*n.split("/"), percent(c["covered"]), number(c["spread_follows_error"])] for n, c in cells.items()),
        ),
        "What cross-validation over the training prompts says of every output (source -: the common scale, that of the "
        "source predicted best; offset and slope: how a source uses it, in levels):",
        "",
        *table(
            ["attribute", "source", "rows", "penalty", "error / error of mean", "uses", "offset", "slope"],
            (
                [
                    fit["attribute"],
                    fit["source"] or "-",
                    fit["rows"],
                    f"{fit['penalty']:.0f}",
                    f"{fit['error_ratio']:.3f}",
                    fit["used"],
                    *(f"{fit[key]:.2f}" if key in fit else "-" for key in ("offset", "slope")),
                ]
                for fit in results["fits"]
            ),
        ),
    ]
    systems = results["vicuna_systems"]
    out += [
        f"Ranking the {systems['systems']} systems of `vicuna` by their mean quality on the test prompts, Spearman "
        f"with the judge's ranking: model {number(systems['model'])}, ridge {number(systems['ridge'])} (intervals from "
        "resampled systems). The systems, unlike the prompts, occur in training.",
        "",
        "<details><summary>Calibration of the model, by rounded prediction</summary>",
        "",
        *table(
            ["attribute", "source", "predicted level", "n", "mean prediction", "mean label"],
            (
                [*name.split("/"), f"{b['bin']:.0f}", b["n"], f"{b['mean_predicted']:.2f}", f"{b['mean_truth']:.2f}"]
                for name, cell in cells.items()
                for b in cell["model"]["calibration"]
            ),
        ),
        "</details>",
        "",
    ]
    if training["warnings"]:
        out += ["Warnings of the training stage:", "", *(f"* {text}" for text in training["warnings"]), ""]
    return out


_MIRRORED = {"value": "value", "low": "high", "high": "low"}


def causes_section(results: Mapping[str, Any]) -> list[str]:
    """What each part of the head is worth, alone and left out."""
    variants, remedies = results["variants"], results["remedies"]

    def row(name: str, said: str) -> list[str]:
        found = [variants[name]["error_ratio"]]
        return [said, *(number(x, 3) for x in found), "-" if name in ("plain", "full") else change(name)]

    def change(name: str) -> str:
        return number(variants[name]["against"], 3, True)

    rows = [row("plain", "first token of the last layer, one output per attribute, no lengths")]
    rows += [row(f"plain with {name}", f"… with: {said}") for name, said in remedies.items()]
    rows += [row("full", "all of these together: what the stage fits")]
    rows += [row(f"full without {name}", f"… without: {said}") for name, said in remedies.items()]
    ranked = results["own_ranks"]
    return [
        "### What each part is worth",
        "",
        "Ridge regression on the frozen encoder's features, fitted to all training rows, on "
        f"{results['test_rows']} test rows: root mean squared error over that of the mean, averaged over attributes "
        "and sources. The last column is the change against the plain, or the full, head (below zero: less error).",
        "",
        *table(["head", "error over that of the mean", "change"], rows),
        "### What ranks can teach these features",
        "",
        f"The same head fitted to people's own ranks of {ranked['replies']} replies of `open_assistant` "
        "(`preference: quality`), in folds of whole trees, so that every reply is predicted from other trees: Spearman "
        f"within {ranked['sibling_sets']} sets of siblings {number(ranked['spearman_within']['quality'])}, against "
        f"{number(ranked['spearman_within']['length'])} of the reply's length, difference "
        f"{number(ranked['beyond_length'], 2, True)}: {_beyond_length(ranked['beyond_length'])}",
        "",
    ]


def _beyond_length(difference: Mapping[str, Any]) -> str:
    """Say what fitting people's own ranks gives over the length of the reply."""
    if difference["low"] > 0:
        return "fitted to the ranks themselves these features order replies better than length does."
    return (
        "even fitted to the ranks themselves these features order replies no better than length does, so a model of "
        "other data (see below) could hardly do so."
    )


def annotated_section(results: Mapping[str, Any]) -> list[str]:
    """Two unlabelled sets, annotated, and what people preferred beside what the model says."""
    sets = results["distributions"]
    names = [key for key, value in next(iter(sets.values())).items() if isinstance(value, dict)]
    rows = []
    for source, row in sets.items():
        for name in names:
            histogram = row[name]["histogram"]
            total = sum(histogram.values())
            shares = ", ".join(f"{level}: {100 * n / total:.0f} %" for level, n in histogram.items())
            rows.append(
                [
                    f"`{source}`",
                    name,
                    row["distinct_turns"],
                    f"{row[name]['mean']:.2f}",
                    f"{row[name]['std']:.2f}",
                    shares,
                ]
            )
    preferences = results["hh_rlhf_preferences"]
    ranks = results["open_assistant_ranks"]
    shorter = {key: 1 - preferences["longer"]["share_better"][other] for key, other in _MIRRORED.items()}
    pairs = [
        [
            name,
            percent(preferences[name]["share_better"]),
            percent(preferences[name]["minus_shorter"]),
            number(preferences[name]["mean_difference"], 3, True),
        ]
        for name in names
    ]
    pairs.append(["shorter response", percent({**preferences["longer"]["share_better"], **shorter}), "-", "-"])
    return [
        "## Annotated sets",
        "",
        "Distinct assistant turns, mean and standard deviation of the real-valued scores, and shares of the rounded "
        "levels. None of these sets has labels for these attributes, so this is what the model says, not how right it "
        "is.",
        "",
        *table(["set", "attribute", "turns", "mean", "std", "levels"], rows),
        "### hh_rlhf: does the preferred response get the better label?",
        "",
        f"{preferences['pairs']} pairs of the test part that differ in their last response only "
        f"({preferences['different_dialogue']} pairs with different dialogues, {preferences['one_side_only']} with one "
        f"readable side and {preferences['too_long']} too long are left out). Share of pairs in which the chosen "
        "response has the better prediction (chance: 50 %), how much more often than it is the shorter one, and by how "
        "much on the attribute's scale (positive = chosen is better). `harmless` is learned from the pairs of other "
        "dialogues (`preference: harmless`); the other attributes are learned from other data, which were rated for "
        "something else: quality from a judge who likes long answers.",
        "",
        *table(["by", "chosen is better, %", "points above the shorter one", "mean difference"], pairs),
        "### open_assistant: predicted quality and human rank",
        "",
        f"{ranks['sibling_sets']} sets of ranked replies to the same message, {ranks['sibling_pairs']} pairs "
        f"({ranks['replies_without_score']} replies have no score). Length is that of the reply.",
        "",
        *table(
            ["by", "Spearman within siblings", "pairs in the right order, %"],
            (
                [what, number(ranks["spearman_within"][what]), percent(ranks["pairs_in_order"][what])]
                for what in ("quality", "length")
            ),
        ),
    ]


def pipeline_section(results: Mapping[str, Any]) -> list[str]:
    """The whole pipeline: cost, fine-tuning, bootstrapping, steering."""
    environment, stages = results["environment"], results["stages"]
    rows = [
        [f"`{name}`", f"{row['seconds'] / 60:.1f}", f"{row['cpu_seconds'] / 60:.1f}", row["peak_memory_mib"]]
        for name, row in stages.items()
    ]
    packages = environment["packages"]
    out = [
        "## The run",
        "",
        f"{environment['platform']}, {environment['cpus']} CPU cores (shared with other work, so CPU minutes say more "
        f"than minutes), no GPU. Python {environment['python']}, torch {packages['torch']}, transformers "
        f"{packages['transformers']}. A stage that was interrupted counts its last process only.",
        "",
        *table(["stage", "minutes", "CPU minutes", "peak memory, MiB"], rows),
    ]
    if "steering" in results:
        out += steering_section(results)
    return out


def steering_section(results: Mapping[str, Any]) -> list[str]:
    """Fine-tuning, bootstrapping and steering of the small language model."""
    steering, sft, bootstrap = results["steering"], results["train_sft"], results["bootstrap"]
    rows = [
        [model, dial, number(row["spearman"]), number(row["mae"]), number(row["slope"])]
        for model, dials in steering["models"].items()
        for dial, row in dials.items()
    ]
    held_out = bootstrap["held_out"]
    return [
        "## The whole pipeline from `stories260K`",
        "",
        "A pretrained Llama of 260 K parameters that has only ever seen children's stories, with a vocabulary of 512 "
        "and a context of 512 tokens: a test that the pipeline runs on a checkpoint nobody here made, not of how good "
        "its answers are.",
        "",
        f"Fine-tuning: {sft['steps']} steps, validation loss {sft['validation_loss']:.3f} per token. Bootstrapping: "
        + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in bootstrap["counts"].items())
        + ".",
        "",
        f"Held-out prompts before and after bootstrapping, judged by the attribute model (which also labelled the "
        f"training data): quality {number(held_out['quality']['before'])} -> {number(held_out['quality']['after'])}, "
        f"difference {number(held_out['quality']['difference'], 2, True)}; mean error between requested and obtained "
        f"level {number(held_out['error']['before'])} -> {number(held_out['error']['after'])}, difference "
        f"{number(held_out['error']['difference'], 2, True)}.",
        "",
        f"Steering: every dial swept on {steering['prompts']['used']} held-out prompts, "
        f"{steering['asks']} requests, measured by the same attribute model, not an independent judge.",
        "",
        *table(["model", "dial", "Spearman requested-obtained", "MAE, levels", "slope"], rows),
    ]


def _of_an_earlier_run(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say so where what follows is about another attribute model than what stands before."""
    if before.get("model") == after.get("model"):
        return []
    return ["**All that follows is of an earlier run, with another attribute model than the one above.**", ""]


def render(folder: Path) -> str:
    """Return the whole page."""

    def load(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    lines = [
        "# Real input",
        "",
        "<!-- generated by recipes/real_input/write_results.py from docs/results/real_input/*.json; do not edit -->",
        "",
        "All four steps on data nobody in this project made: recipe, commands and caveats are in "
        "`recipes/real_input/`. Every number comes from a run of that recipe, good or bad.",
        "",
        *data_section(load("data")),
        *attribute_section(load("attribute_model")),
        *(causes_section(load("causes")) if (folder / "causes.json").is_file() else []),
        *_of_an_earlier_run(load("attribute_model"), load("annotated")),
        *annotated_section(load("annotated")),
        *_of_an_earlier_run(load("annotated"), load("pipeline")),
        *pipeline_section(load("pipeline")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the result files")
    arguments = parser.parse_args()
    with atomic_writer(arguments.results.with_suffix(".md")) as stream:
        stream.write(render(arguments.results).encode())


if __name__ == "__main__":
    main()
