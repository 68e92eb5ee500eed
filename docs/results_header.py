"""Measure how fast a header is learned on the playground, by option of `train-sft`.

    python docs/results_header.py runs/playground WORK [SEED …]        (after `make quickstart`; resumable)
    python docs/results_header.py keep NAME STAGE EVALUATION            (a training of a real model, and its evaluation)
    make docs

Every option and seed is a short training of the run's base model on its annotated data; `header_gain` is what
`train-sft` logs after every validation, Spearman the exact measure of every dial on held-out prompts at the end.
Some are no options of `train-sft`: `header_tries` puts them in place. The figures are kept in
`docs/results/header.json`; the page is made from them alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.reporting.formatting import interval_text, markdown_table, number
from steerlm.statistics.estimates import Estimate

RESULT = Path(__file__).resolve().parent / "results" / "header.json"
REAL = RESULT.with_name("header_real.json")
STEPS, VALIDATIONS = 240, 6
OPTIONS: dict[str, dict[str, object]] = {
    "as it is": {},
    "names and digits": {"header": "tokens"},
    "names and digits, in a template of the model's own": {"header": "tokens", "template": "native"},
    "names and digits between tokens that it has, in that template": {"header": "text", "template": "native"},
    "as it is, in that template": {"template": "native"},
    "twice the rate": {"learning_rate": 8e-3},
    "half the rate": {"learning_rate": 2e-3},
    "half the batch, as many examples": {"tokens_per_batch": 768, "max_steps": 2 * STEPS},
    "no decoys": {"header_decoys": 0.0},
    "no attribute left out": {"attribute_dropout": 0.0, "header_dropout": 0.0},
    "every answer twice, a third of its header left out": {"attribute_dropout": 0.33},
    "adapters of rank 8": {"lora": {"rank": 8, "alpha": 16, "dropout": 0.0}},
    "adapters of rank 64": {"lora": {"rank": 64, "alpha": 128, "dropout": 0.0}},
    "new rows at the common rate": {},
    "new rows at 30 times the rate": {},
    "levels balanced": {},
    "an answer's first 8 tokens and its end three times": {},
    "right header against another": {},
    "right header against another, as much computing": {"max_steps": STEPS // 2},
}
"""What is tried, as changes of the recipe's section `train_sft`; `header_tries` knows more of some."""
_PROMPTS, _MAX_NEW_TOKENS = 24, 160


def learn(run: Path, work: Path, option: str, seed: int, steps: int = STEPS) -> dict[str, Any]:
    """Train with one option and return its course; what is finished in `work` is not done again."""
    from header_tries import TRIES, with_own_template

    from steerlm.config import EvaluateConfig, TrainSftConfig, load_recipe
    from steerlm.results.evaluation import read_evaluation
    from steerlm.runs import RunPaths
    from steerlm.stages.evaluate.stage import evaluate
    from steerlm.stages.train_sft import train_sft

    recipe = load_recipe(run / "recipe.yaml")
    paths, out = RunPaths(run), work / f"{option.replace(' ', '-').replace(',', '')}-{seed}"
    changes = {"max_steps": steps, **OPTIONS[option]}
    changes["eval_steps"] = max(1, int(str(changes["max_steps"])) // VALIDATIONS)
    base = paths.model("playground").parent / "base_model"
    if changes.get("template") == "native":
        base = with_own_template(base, work / "own_template")
    changes |= {"base_model": str(base), "warmup_steps": min(20, steps // 4)}
    section = TrainSftConfig.model_validate({**recipe.train_sft.model_dump(), **changes})
    with TRIES.get(option, lambda: contextlib.nullcontext(1))() as copies:
        sources = [source.model_copy(update={"epochs": copies}) for source in recipe.prepare.sources]
        summary = train_sft(section, *paths.splits("annotate"), recipe.schema_, out, seed, sources)
    evaluation = EvaluateConfig(
        measure="playground", num_prompts=_PROMPTS, max_new_tokens=_MAX_NEW_TOKENS, settings=("defaults",)
    )
    prompts = run / "playground" / "prompts.jsonl"
    evaluate(evaluation, {"sft": out / "model"}, prompts, recipe.schema_, out / "evaluation", seed=seed)
    results = read_evaluation(out / "evaluation")
    assert results is not None
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    epoch = summary["steps"] / summary["epochs"]
    return {
        "gain": [
            [round(row["step"] / epoch * summary["train"]["records"]), row["header_gain"]]
            for row in rows
            if "header_gain" in row
        ],
        "loss": summary["validation_loss"],
        # answers that are alike follow nothing
        "spearman": {
            row.attribute: row.dial.spearman.value if math.isfinite(row.dial.spearman.value) else 0.0
            for row in results.headline_dials()
        },
    }


def measure(run: Path, work: Path, seeds: Sequence[int], result: Path = RESULT) -> None:
    """Add every option and seed to the result file, as each is finished."""
    from steerlm.storage.files import write_json

    kept: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    found = {option: kept.get(option, {}) for option in OPTIONS}
    for seed in seeds:
        for option in OPTIONS:
            if str(seed) not in found[option]:
                found[option][str(seed)] = learn(run, work, option, seed)
                write_json(result, found)


def table(found: Mapping[str, Any] | None = None) -> str:
    """Return the table of the page: gain by examples seen, loss and mean Spearman, each over the seeds."""
    if found is None:
        found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = []
    for option, seeds in found.items():
        runs = list(seeds.values())
        if not runs:
            continue
        courses = [[gain for _, gain in run["gain"]] for run in runs]
        at = [runs[0]["gain"][place][0] for place in (1, 3, -1)]
        gained = [_over([course[place] for course in courses]) for place in (1, 3, -1)]
        means = [sum(run["spearman"].values()) / len(run["spearman"]) for run in runs]
        rows.append(
            [
                option,
                str(len(runs)),
                *(f"{gain} ({examples:,})" for gain, examples in zip(gained, at, strict=True)),
                _over([run["loss"] for run in runs]),
                _over(means),
                _over([min(run["spearman"].values()) for run in runs]),
            ]
        )
    columns = [
        "option",
        "seeds",
        "gain at 1/3 (examples)",
        "at 2/3",
        "at the end",
        "held-out loss",
        "Spearman",
        "lowest dial",
    ]
    return markdown_table(columns, rows)


def _over(values: Sequence[float]) -> str:
    """Return the mean and, of several seeds, the range."""
    mean = sum(values) / len(values)
    return number(mean, 3) if len(values) == 1 else _between(mean, min(values), max(values))


def keep(name: str, stage: Path, evaluation: Path, result: Path = REAL) -> None:
    """Keep what the page says of one training of a real model.

    Args:
        stage: folder that `train-sft` wrote.
        evaluation: folder that `evaluate` wrote of its model.
    """
    from steerlm.results.evaluation import read_evaluation
    from steerlm.storage.files import write_json

    results = read_evaluation(evaluation)
    assert results is not None
    summary = json.loads((stage / "summary.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    gains = [row for row in rows if "header_gain" in row]
    kept = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    kept[name] = {
        "gain": [[row["step"], *(row[f"header_gain{end}"] for end in ("", "_low", "_high"))] for row in gains],
        "loss": summary["validation_loss"],
        "prompts": results.prompts.used,
        "spearman": {
            row.attribute: [row.dial.spearman.value, row.dial.spearman.low, row.dial.spearman.high]
            for row in results.headline_dials()
        },
    }
    write_json(result, kept)


def real_table() -> str:
    """Return the table of the page of what was tried on a real model."""
    found: dict[str, Any] = json.loads(REAL.read_text(encoding="utf-8"))
    dials = list(next(iter(found.values()))["spearman"])
    steps = [step for step, *_ in next(iter(found.values()))["gain"]]
    rows = [
        [
            name,
            *(_between(*gain) for _, *gain in run["gain"]),
            f"{run['loss']:.3f}",
            *(_between(*run["spearman"][dial]) for dial in dials),
        ]
        for name, run in found.items()
    ]
    gains = [f"gain at step {step}" for step in steps]
    return markdown_table(["header", *gains, "held-out loss", *(f"Spearman of {dial}" for dial in dials)], rows)


def _between(value: float | None, low: float | None, high: float | None) -> str:
    """Return an estimate with its interval; a dial whose answers are all alike has neither."""
    numbers = (math.nan if end is None else end for end in (value, low, high))
    return interval_text(Estimate(*numbers, n=0, clusters=0), 3)


BLOCKS = {"header-speed": table, "header-real": real_table}

if __name__ == "__main__":
    if sys.argv[1] == "keep":
        keep(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        run_dir, work_dir, *numbers = sys.argv[1:]
        measure(Path(run_dir), Path(work_dir), [int(number) for number in numbers] or [0, 1, 2])
