"""Train what `results_beyond` measures: per seed a playground, a short fine-tuning, and every further step from it.

    python docs/results_beyond_runs.py WORK [SEED …]       (resumable)

The fine-tuning is short (1.5 epochs where the recipe has 3.5), so that its dials leave something to gain. Every step
samples `BUDGET` answers, one row twice as many; contrast samples none and takes pairs of the training data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import results_beyond

BUDGET = 2048
"""Answers that a step samples."""
_EPOCHS = 1.5
_SHARED = {"max_new_tokens": 160, "batch_size": 128}
_REFINE = {
    **_SHARED, "concentration": 300, "samples_per_prompt": 8, "learning_rate": 1e-4, "gradient_accumulation_steps": 4,
}  # fmt: skip
_TRAINING = {  # as the playground's recipe says
    "train_sft.learning_rate": 4e-3, "train_sft.max_length": 512, "train_sft.tokens_per_batch": 1536,
    "train_sft.warmup_steps": 20, "train_sft.adam_beta2": 0.98,
}  # fmt: skip
STEPS: dict[str, tuple[str, dict[str, object]]] = {
    "bootstrap-paper": ("bootstrap", {
        **_SHARED, "mode": "paper", "num_prompts": BUDGET // 4, "samples_per_prompt": 4, "temperature": 0.7,
        "mix_original": 0.0, "epochs": 1, "learning_rate_share": 0.25,
    }),
    "bootstrap": ("bootstrap", {**_SHARED, "num_prompts": BUDGET // 8, "samples_per_prompt": 8, "temperature": 0.7}),
    "bootstrap-double": ("bootstrap", {
        **_SHARED, "num_prompts": BUDGET // 4, "samples_per_prompt": 8, "temperature": 0.7,
    }),
    "bootstrap-turned-up": ("bootstrap", {
        **_SHARED, "num_prompts": BUDGET // 8, "samples_per_prompt": 8, "temperature": 0.7, "guidance": 2.0,
    }),
    "refine": ("refine", {**_REFINE, "num_prompts": BUDGET // 8}),
    "refine-2": ("refine", {**_REFINE, "num_prompts": BUDGET // 16, "rounds": 2}),
    "contrast": ("contrast", {**_SHARED, "learning_rate": 3e-4, "epochs": 0.6}),
    "reinforce": ("reinforce", {
        "max_new_tokens": 160, "steps": BUDGET // 64, "batch_size": 64, "num_generations": 8, "learning_rate": 3e-4,
        "temperature": 1.0,
    }),
}  # fmt: skip
"""By row of the page: the stage, and its section."""


def _steerlm(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "steerlm", *map(str, arguments)], check=True)


def _sets(values: dict[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def first_model(work: Path, seed: int) -> Path:
    """Make the playground of a seed and its fine-tuned model; return the run folder."""
    run = work / f"seed-{seed}"
    settings = {
        "run_dir": run, "seed": seed, "train_sft.epochs": _EPOCHS, "bootstrap": "null", "evaluate.num_prompts": 8,
    }  # fmt: skip
    _steerlm("run", "playground", *_sets(settings))
    return run


def further(run: Path, row: str, seed: int) -> Path:
    """Take the step of a row from the run's fine-tuned model; return the stage's folder."""
    stage, section = STEPS[row]
    out = run / "further" / row
    if not (out / "cost.json").is_file():
        base = ["--base-model", run / "playground" / "base_model"] if stage == "bootstrap" else []
        if stage == "bootstrap":
            section = {**section, "quality_attributes": '["helpfulness"]'}
        before = os.times()
        start = time.monotonic()
        _steerlm(
            stage, "--sft-model", run / "train_sft" / "model",
            "--attribute-model", run / "train_attribute_model" / "model",
            "--data", run / "annotate" / "train.jsonl", "--validation", run / "annotate" / "validation.jsonl",
            "--out", out, "--seed", seed, *base, *_sets({**section, **_TRAINING}),
        )  # fmt: skip
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        found = {"cpu_seconds": round(spent, 1), "seconds": round(time.monotonic() - start, 1)}
        (out / "cost.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    return out


def main() -> int:
    """Train and measure every row of every seed."""
    work, seeds = Path(sys.argv[1]).resolve(), [int(seed) for seed in sys.argv[2:]] or [0, 1, 2]
    for seed in seeds:
        run = first_model(work, seed)
        folders = {row: further(run, row, seed) for row in STEPS}
        models = {"sft": run / "train_sft" / "model", **{row: folder / "model" for row, folder in folders.items()}}
        results_beyond.add(run, models, folders, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
