"""Train what `results_beyond` measures: per seed the playground's recipe, and every further step from its fine-tuning.

    python docs/results_beyond_runs.py WORK [SEED …]       (resumable)

Every step samples `BUDGET` answers; growth, which starts from the bootstrapped model, as many in each of its rounds;
contrast samples none and takes pairs of the training data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import results_beyond

from steerlm.config import load_recipe

BUDGET = 2048
"""Answers that a step samples."""
_SHARED = {"max_new_tokens": 160, "batch_size": 128}
_REFINE = {
    **_SHARED, "concentration": 300, "samples_per_prompt": 8, "learning_rate": 1e-4, "gradient_accumulation_steps": 4,
}  # fmt: skip
_TRAINING = {  # as the playground's recipe says
    "train_sft.learning_rate": 4e-3, "train_sft.max_length": 512, "train_sft.tokens_per_batch": 1536,
    "train_sft.warmup_steps": 20, "train_sft.adam_beta2": 0.98,
    "train_sft.attribute_dropout": 0.05, "train_sft.header_dropout": 0.05,
}  # fmt: skip
_BOOTSTRAP = {**_SHARED, "num_prompts": BUDGET // 2, "samples_per_prompt": 2, "temperature": 0.7}
STEPS: dict[str, tuple[str, dict[str, object]]] = {
    "bootstrap-paper": ("bootstrap", {
        **_BOOTSTRAP, "mode": "paper", "num_prompts": BUDGET // 4, "samples_per_prompt": 4, "mix_original": 0.0,
        "epochs": 1, "learning_rate_share": 0.25,
    }),
    "bootstrap-2": ("bootstrap", {**_BOOTSTRAP, "num_prompts": BUDGET // 4, "rounds": 2}),
    "bootstrap-turned-up": ("bootstrap", {**_BOOTSTRAP, "guidance": 2.0}),
    "refine": ("refine", {**_REFINE, "num_prompts": BUDGET // 8}),
    "refine-2": ("refine", {**_REFINE, "num_prompts": BUDGET // 16, "rounds": 2}),
    "contrast": ("contrast", {**_SHARED, "learning_rate": 3e-4, "epochs": 0.6}),
    "reinforce": ("reinforce", {
        "max_new_tokens": 160, "steps": BUDGET // 64, "batch_size": 64, "num_generations": 8, "learning_rate": 3e-4,
        "temperature": 1.0,
    }),
}  # fmt: skip
"""By row of the page: the stage, and its section."""
GROWTH: dict[str, dict[str, object]] = {"grow": {}, "grow-rated": {"grow.ratings": 40, "grow.raters": "playground"}}
"""By row of the page: what `steerlm grow` is told beside the recipe. A round samples as the recipe bootstraps."""


def _steerlm(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "steerlm", *map(str, arguments)], check=True)


def _sets(values: dict[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def first_model(work: Path, seed: int) -> Path:
    """Make the playground of a seed, its fine-tuned model and what bootstrapping makes of it; return the run folder."""
    run = work / f"seed-{seed}"
    _steerlm("run", "playground", *_sets(_recipe(run, seed)))
    return run


def _recipe(run: Path, seed: int) -> dict[str, object]:
    first = {"run_dir": run, "seed": seed, "evaluate.num_prompts": 8}
    return {**first, **{f"bootstrap.{key}": value for key, value in _BOOTSTRAP.items()}}


def further(run: Path, row: str, seed: int) -> Path:
    """Take the step of a row from the run's fine-tuned model; return the stage's folder."""
    stage, section = STEPS[row]
    out = run / "further" / row
    base = ["--base-model", run / "playground" / "base_model"] if stage == "bootstrap" else []
    if stage == "bootstrap":
        section = {**section, "quality_attributes": '["helpfulness"]'}
    _timed(
        out, stage, "--sft-model", run / "train_sft" / "model",
        "--attribute-model", run / "train_attribute_model" / "model",
        "--data", run / "annotate" / "train.jsonl", "--validation", run / "annotate" / "validation.jsonl",
        "--out", out, "--seed", seed, *base, *_sets({**section, **_TRAINING}),
    )  # fmt: skip
    return out


def longer(run: Path, seed: int) -> Path:
    """Fine-tune on as many tokens of the same records as bootstrapping trained on, at its rate; return the folder."""
    out, schema = run / "further" / "longer", run / "further" / "attributes.yaml"
    schema.parent.mkdir(exist_ok=True)
    schema.write_text(json.dumps(load_recipe(run / "recipe.yaml").schema_.to_dict()), encoding="utf-8")
    records = json.loads((run / "train_sft" / "done.json").read_text(encoding="utf-8"))["summary"]["train"]
    epochs = dict(results_beyond.cost(run / "bootstrap"))["trained_tokens"] / records["tokens"]
    settings = {key.removeprefix("train_sft."): value for key, value in _TRAINING.items()}
    settings |= {"learning_rate": 1e-3, "warmup_steps": 0.1, "epochs": round(epochs, 3)}
    _timed(
        out, "train-sft", "--base-model", run / "train_sft" / "model", "--attributes", schema,
        "--train", run / "annotate" / "train.jsonl", "--validation", run / "annotate" / "validation.jsonl",
        "--out", out, "--seed", seed, *_sets(settings),
    )  # fmt: skip
    return out


def grown(run: Path, row: str, seed: int) -> Path:
    """Let the run grow from its bootstrapped model; return the folder."""
    out = run / "further" / row
    _timed(out, "grow", "playground", "--out", out, *_sets({**_recipe(run, seed), **GROWTH[row]}))
    return out


def _timed(out: Path, *arguments: object) -> None:
    """Run a command, unless it is done, and keep what it took in `out/cost.json`."""
    if (out / "cost.json").is_file():
        return
    before, start = os.times(), time.monotonic()
    _steerlm(*arguments)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    found = {"cpu_seconds": round(spent, 1), "seconds": round(time.monotonic() - start, 1)}
    (out / "cost.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


def main() -> int:
    """Train and measure every row of every seed."""
    work, seeds = Path(sys.argv[1]).resolve(), [int(seed) for seed in sys.argv[2:]] or [0, 1, 2]
    for seed in seeds:
        run = first_model(work, seed)
        folders = {"bootstrap": run / "bootstrap", **{row: further(run, row, seed) for row in STEPS}}
        folders |= {"longer": longer(run, seed), **{row: grown(run, row, seed) for row in GROWTH}}
        first = run / "train_sft" / "model"
        models = {"sft": first, "demonstrations": first, **{row: folder / "model" for row, folder in folders.items()}}
        results_beyond.add(run, models, folders, seed)
        results_beyond.add_proposed(run, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
