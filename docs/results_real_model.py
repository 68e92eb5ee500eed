"""Copy the numbers of a run on a real model into `docs/results/real_model/`, and render them for README and docs.

    python docs/results_real_model.py RUN [--course NAME=TRAINING …] [--at STEP=EVALUATION …]
    python docs/results_real_model.py RUN --ways FOLDER          (what `steerlm evaluate --ways` found for the model of
                                                                  the second run, and no more)
    python docs/results_real_model.py RUN --ask QUESTION --dial NAME      (an answer per level, its curve: the README)
    python docs/results_real_model.py RUN --hour                 (a run of docs/no-ratings.md, for that page)
    python docs/results_real_model.py RUN --labels NAME          (what the attribute model of another run is worth)
    make docs

RUN is a finished run of `recipes/gemma_270m.yaml`. Every TRAINING is the output of another `train-sft`, finished or
not, whose course stands beside the run's; EVALUATION what `steerlm evaluate` found for the checkpoint of a step.

Of the answers only the model's own words are copied, with what was asked of each and what the scorers said, so that
every figure can be computed again without the model; prompts stay where they are.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from steerlm.config import load_recipe
from steerlm.reporting.charts import response_curves_png
from steerlm.reporting.formatting import estimate_text, markdown_table, markdown_text, number
from steerlm.reporting.ways import ways_overview
from steerlm.results.codec import from_json, read_result
from steerlm.results.dials import DialResult
from steerlm.results.evaluation import read_evaluation
from steerlm.results.studies import MachineFacts
from steerlm.results.ways import WaysResult
from steerlm.statistics.estimates import Estimate
from steerlm.storage.resumable import read_rows

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results_ablation import machine
from results_elsewhere import alone, anecdotes, groups, suite
from results_steerbench import ways_page
from results_turned_up import (
    BOOTSTRAP_AGAIN,
    FOLLOWED,
    bootstrap,
    bootstrap_turned,
    followed_cells,
    guided,
    several,
    tuned,
)
from stored_run import StoredRun, finished_stages

STORED = StoredRun(Path(__file__).resolve().parent / "results" / "real_model")
ANSWERS = STORED.folder / "answers.jsonl.gz"


def copy(run: Path, others: dict[str, Path], steps: dict[str, Path]) -> None:
    """Copy what the page needs from a finished run, from other trainings and checkpoints."""
    STORED.copy_cost(run)
    results = json.loads((run / "evaluate" / "results.json").read_text())
    results["examples"]["sweeps"] = []  # they hold other people's prompts
    STORED.write("evaluate.json", results)
    copy_labels(run, "attribute_model.json")
    courses = {"a token per level": run / "train_sft", **others}
    STORED.write("course.json", {name: _course(out) for name, out in courses.items()})
    recipe = load_recipe(run / "recipe.yaml")
    settings = recipe.train_sft.model_dump(mode="json", exclude_unset=True)
    settings["base_model"] = Path(settings["base_model"]).name
    STORED.write(
        "settings.json", {"train_sft": settings, "sources": [source.name for source in recipe.prepare.sources]}
    )
    STORED.write("curve.json", {step: _dials(folder) for step, folder in steps.items()})
    with ANSWERS.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
        for row in _answers(run / "evaluate", results):
            packed.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def copy_labels(run: Path, name: str) -> None:
    """Keep what an attribute model is worth on held-out turns."""
    report = json.loads((run / "train_attribute_model" / "report.json").read_text())
    kept = {key: report[key] for key in ("base_model", "train", "sources", "warnings")}
    STORED.write(name, {**kept, "base_model": Path(kept["base_model"]).name})


WAYS, WAYS_AGAIN, WAYS_PLAIN = "ways.json", "ways_again.json", "ways_plain.json"
"""The ways to steer beside the fine-tuned model of the first run, and beside the bootstrapped one of the second; and
those of plain fine-tuning beside a ladder's model."""


def copy_ways(folder: Path, name: str) -> None:
    """Keep a comparison of ways to steer."""
    STORED.write(name, _here(json.loads((folder / "ways.json").read_text(encoding="utf-8"))))


def _here(value: Any) -> Any:
    """Shorten the folders of this machine: of models that were trained to their place in a run, else to their name."""
    if isinstance(value, list):
        return [_here(item) for item in value]
    if isinstance(value, dict):
        return {key: _here(item) for key, item in value.items()}
    if not (isinstance(value, str) and value.startswith("/")):
        return value
    path = Path(value)
    return "/".join(path.parts[-4:]) if path.name == "model" else path.name


def ask(model: Path, question: str, dial: str) -> None:
    """Keep one answer to a question for every level of a dial, as a server gives it: the others at their defaults.

    The dial counts as strongly as the model's folder says; all answers are drawn with one seed.
    """
    from steerlm.checkpoint.info import load_info
    from steerlm.conversation import Message
    from steerlm.generation.engine import Request, Sampling, load_engine
    from steerlm.generation.guidance import turned_strengths

    engine, strengths = load_engine(model), load_info(model).strengths
    settings = [{**engine.schema.defaults, dial: level} for level in engine.schema[dial].levels]
    requests = [
        Request(
            (Message("user", question),), setting, seed=0, guidance=turned_strengths(engine.schema, setting, strengths)
        )
        for setting in settings
    ]
    answers = engine.generate(requests, Sampling(max_new_tokens=96, temperature=0.7, top_k=50))
    texts = [[setting[dial], answer.text] for setting, [answer] in zip(settings, answers, strict=True)]
    STORED.write("asked.json", {"question": question, "dial": dial, "answers": texts})


def draw() -> None:
    """Draw the curve of the dial that was asked, as it was measured for the model that was asked."""
    name, dial = STORED.read("asked.json")["dial"], _asked_dial()
    levels = dial.curve[0].requested, dial.curve[-1].requested
    picture = response_curves_png({name.replace("_", " "): (levels, dial.curve, {})})
    (Path(__file__).resolve().parent / "figures" / "real_dial.png").write_bytes(picture)


def _asked_dial() -> DialResult:
    """How the dial of the question follows over held-out prompts, at the strength that the model was asked with."""
    turned = STORED.read(BOOTSTRAP_AGAIN)["turned"]
    return from_json(DialResult, turned["dials"][STORED.read("asked.json")["dial"]])


def copy_hour(run: Path) -> None:
    """Keep what a run of the page "You have no ratings" took, and how its dials follow."""
    results = read_evaluation(run / "evaluate")
    assert results is not None
    stages = finished_stages(run)
    dials = {
        row.attribute: {
            "obtained": [point.estimate.value for point in row.dial.curve],
            "spearman": row.dial.spearman.to_dict(),
            "mae": row.dial.mae.to_dict(),
        }
        for row in results.headline_dials()
    }
    sft = stages["train_sft"]["summary"]
    STORED.write(
        "hour.json",
        {
            "seconds": {name: row["seconds"] for name, row in stages.items()},
            "records": sft["train"]["records"],
            "steps": sft["steps"],
            "prompts": results.prompts.used,
            "dials": dials,
            "environment": json.loads((run / "environment.json").read_text()),
        },
    )


def _dials(folder: Path) -> dict[str, Any]:
    """Return Spearman of every dial of an evaluation, and how many prompts and answers it had."""
    results = read_evaluation(folder)
    assert results is not None
    return {
        "prompts": results.prompts.used,
        "answers": results.asks,
        "spearman": {row.attribute: row.dial.spearman.to_dict() for row in results.headline_dials()},
    }


def _course(out: Path) -> dict[str, Any]:
    """Return loss and gain of the header by step."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    return {
        "tokens_per_second": [row["tokens_per_second"] for row in rows if "tokens_per_second" in row],
        "validations": [
            {
                "step": row["step"],
                "loss": losses[row["step"]],
                "gain": [row["header_gain"], row["header_gain_low"], row["header_gain_high"]],
            }
            for row in rows
            if "header_gain" in row
        ],
    }


def _answers(folder: Path, results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every answer of every model, with its scores by scorer."""
    for model in results["models"]:
        scores = {
            scorer["id"]: list(read_rows(folder / model / f"scores-{scorer['id']}.jsonl"))
            for scorer in results["scorers"]
        }
        for i, row in enumerate(read_rows(folder / model / "samples.jsonl")):
            for k, sample in enumerate(row["samples"]):
                yield {
                    "model": model,
                    "ask": row["ask"],
                    "prompt": row["prompt"],
                    "attributes": row["attributes"],
                    "text": sample["text"],
                    "finished": sample["finished"],
                    "scores": {scorer: found[i]["scores"][k] for scorer, found in scores.items()},
                }


def answers() -> Iterator[dict[str, Any]]:
    """Yield the stored answers."""
    with gzip.open(ANSWERS, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def steering() -> str:
    """Requested against obtained, for every model and dial."""
    results = STORED.evaluation()
    rows = []
    for model, attribute, dial, scorer in results.headline_dials():
        rows.append([model, attribute, scorer.text, *followed_cells(dial)])
    note = (
        f"\n{results.prompts.used} held-out prompts, {results.asks} answers per model, temperature "
        f"{results.drawing.temperature}, at most {results.drawing.max_new_tokens} tokens, seed {results.seed}; the "
        f"other dials stand at: {', '.join(results.drawing.settings)}.\n"
    )
    return markdown_table(["model", "dial", "measured by", *FOLLOWED], rows) + note


def curve() -> str:
    """Spearman of every dial by step."""
    found = STORED.read("curve.json")
    if not found:
        return "Not measured.\n"
    dials = list(next(iter(found.values()))["spearman"])
    rows = [
        [step, *(estimate_text(from_json(Estimate, row["spearman"][name])) for name in dials)]
        for step, row in found.items()
    ]
    first = next(iter(found.values()))
    note = (
        f"\n{first['prompts']} held-out prompts, {first['answers']} answers per checkpoint, the other dials at their "
        "defaults.\n"
    )
    return markdown_table(["step", *dials], rows) + note


def ways(file: str) -> str:
    """The ways to steer."""
    return ways_page(read_result(WaysResult, STORED.folder / file))


def ways_in_short(file: str) -> str:
    """The ways to steer, in the mean over the dials."""
    return ways_overview(read_result(WaysResult, STORED.folder / file)) + "\n"


def asked() -> str:
    """One question, one answer per level of a dial."""
    found = STORED.read("asked.json")
    rows = [[f"{found['dial']} {level}", markdown_text(text)] for level, text in found["answers"]]
    return f"> **{found['question']}**\n\n" + markdown_table(["dial", "answer"], rows)


def picture() -> str:
    """One question, one answer per level of a dial, and the measured curve of the dial beside them (for the README)."""
    found, dial = STORED.read("asked.json"), _asked_dial()
    name = found["dial"].replace("_", " ")
    obtained = " ".join(number(point.estimate.value, 1) for point in dial.curve)
    curve = (
        f'<td rowspan="{len(found["answers"]) + 1}"><img src="docs/figures/real_dial.png" width="260" '
        f'alt="{name}: asked for against obtained ({obtained})"></td>'
    )
    rows = [f"<tr><th>{html.escape(name)}</th><th>{html.escape(found['question'], quote=False)}</th>{curve}</tr>"]
    rows += [
        f"<tr><td>{level}</td><td>{html.escape(text, quote=False).replace(chr(10), '<br>')}</td></tr>"
        for level, text in found["answers"]
    ]
    note = (
        f"\n\nRight: over held-out prompts, Spearman {estimate_text(dial.spearman)}, error "
        f"{estimate_text(dial.mae)} levels.\n"
    )
    return "\n".join(["<table>", *rows, "</table>"]) + note


def hour() -> str:
    """Minutes and dials of the page "You have no ratings"."""
    found = STORED.read("hour.json")
    rows = [
        [
            name,
            " ".join(number(value, 1) for value in row["obtained"]),
            estimate_text(from_json(Estimate, row["spearman"])),
            estimate_text(from_json(Estimate, row["mae"])),
        ]
        for name, row in found["dials"].items()
    ]
    parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in found["seconds"].items())
    note = (
        f"\n{sum(found['seconds'].values()) / 60:.0f} minutes ({parts}): {found['records']} rows to train on, "
        f"{found['steps']} steps, {found['prompts']} held-out prompts. "
        f"{machine(from_json(MachineFacts, found['environment']))}"
    )
    return markdown_table(["dial", "obtained, lowest level to highest", "Spearman", "error, levels"], rows) + note


def course() -> str:
    """How the header is learned: held-out loss and gain by step, for every form of the header."""
    rows, notes = [], []
    for name, found in STORED.read("course.json").items():
        for seen in found["validations"]:
            gain, low, high = seen["gain"]
            figures = f"{gain:.4f} [{low:.4f}, {high:.4f}]"
            rows.append([name, str(seen["step"]), number(seen["loss"], 3), figures])
        notes.append(f"{name} {statistics.median(found['tokens_per_second']):.0f}")
    header = ["header", "step", "held-out loss", "`header_gain`, nats per token"]
    return markdown_table(header, rows) + f"\nMedian tokens/s, one thread: {'; '.join(notes)}.\n"


def labels(name: str = "") -> str:
    """What an attribute model learned, on held-out turns: the run's, or that of another run."""
    report = STORED.read(f"labels_{name}.json" if name else "attribute_model.json")
    rows = [
        [source, name, str(row["n"]), number(row["error_ratio"]["value"], 2), number(row["spearman"]["value"], 2)]
        for source, attributes in report["sources"].items()
        for name, row in attributes.items()
    ]
    notes = "".join(f"* {warning}\n" for warning in report["warnings"])
    return markdown_table(["source", "attribute", "held-out labels", "error of that of the mean", "Spearman"], rows) + (
        f"\n{notes}" if notes else ""
    )


BLOCKS = {
    "real-cost": STORED.cost,
    "real-steering": steering,
    "real-course": course,
    "real-labels": labels,
    "real-curve": curve,
    "real-guided": partial(guided, STORED),
    "real-tuned": partial(tuned, STORED),
    "real-several": partial(several, STORED),
    "real-groups": partial(groups, STORED),
    "real-alone": partial(alone, STORED),
    "real-suite": partial(suite, STORED),
    "real-anecdotes": partial(anecdotes, STORED),
    "real-ways": partial(ways, WAYS),
    "real-ways-again": partial(ways, WAYS_AGAIN),
    "real-ways-overview": partial(ways_in_short, WAYS_AGAIN),
    "real-ways-plain": partial(ways_in_short, WAYS_PLAIN),
    "real-asked": asked,
    "real-picture": picture,
    "real-bootstrapping": STORED.bootstrapping,
    "real-bootstrap": partial(bootstrap, STORED),
    "real-bootstrap-turned": partial(bootstrap_turned, STORED),
    "real-bootstrap-again": partial(bootstrap, STORED, BOOTSTRAP_AGAIN),
    "real-bootstrap-again-turned": partial(bootstrap_turned, STORED, BOOTSTRAP_AGAIN),
    "real-hour": hour,
}


def main() -> None:
    """Copy what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--course", nargs="*", default=[], metavar="NAME=TRAINING")
    parser.add_argument("--at", nargs="*", default=[], metavar="STEP=EVALUATION")
    parser.add_argument("--ways", type=Path, metavar="FOLDER")
    parser.add_argument("--ways-plain", type=Path, metavar="FOLDER")
    parser.add_argument("--ask", metavar="QUESTION")
    parser.add_argument("--dial", default="length", help="that the question is asked with")
    parser.add_argument("--hour", action="store_true")
    parser.add_argument("--labels", metavar="NAME")
    given = parser.parse_args()
    if given.hour:
        copy_hour(given.run)
        return
    if given.labels is not None:
        copy_labels(given.run, f"labels_{given.labels}.json")
        return
    for folder, name in ((given.ways, WAYS_AGAIN), (given.ways_plain, WAYS_PLAIN)):
        if folder is not None:
            copy_ways(folder, name)
    if given.ways is not None or given.ways_plain is not None:
        return
    if given.ask is not None:
        ask(given.run / "bootstrap" / "model", given.ask, given.dial)
        draw()
        return
    others, steps = (
        {name: Path(folder) for name, _, folder in (pair.partition("=") for pair in pairs)}
        for pairs in (given.course, given.at)
    )
    copy(given.run, others, steps)


if __name__ == "__main__":
    main()
