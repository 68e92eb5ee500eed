"""The shipped playground recipe shrunk until every part of it takes a second or two, for tests of what reruns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


def write_tiny_recipe(path: Path, run_dir: Path, **changes: dict[str, Any]) -> Path:
    """Write the recipe; `changes` are laid over its sections."""
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / "playground.yaml").read_text(encoding="utf-8"))
    recipe["run_dir"] = str(run_dir)
    recipe["playground"] |= {
        "num_prompts": 150, "num_held_out": 20, "hidden_size": 48, "num_layers": 1, "num_heads": 2,
        "pretrain_epochs": 0.3, "vocab_size": 1024,
    }  # fmt: skip
    for stage in ("train_attribute_model", "train_sft"):
        recipe[stage] |= {"max_steps": 40, "warmup_steps": 2, "tokens_per_batch": 1024, "eval_steps": 40}
    recipe["annotate"] = {"window": 64, "tokens_per_batch": 2048}
    recipe["bootstrap"] |= {
        "mode": "paper", "num_prompts": 12, "samples_per_prompt": 2, "max_new_tokens": 160, "batch_size": 24,
        "mix_original": 2, "epochs": 0.5, "filter": "none",
    }  # fmt: skip
    recipe["evaluate"] |= {"num_prompts": 5, "max_new_tokens": 12}
    for section, values in changes.items():
        recipe[section] |= values
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
