"""Small models to export, the real results that lie in the docs, and a process that knows nothing of steerlm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForSequenceClassification

from steerlm.attributes import AttributeSchema, output_names
from steerlm.checkpoint.models import CheckpointInfo, fingerprint, save_model
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "playground"
SCHEMA = AttributeSchema.from_dict(json.loads((RESULTS / "evaluate.json").read_text(encoding="utf-8"))["attributes"])
STATISTICS = {"turns": 20, "unlabelled_turns": 1, "num_combinations": 3, "combinations": []}


def steerable(folder: Path, schema: AttributeSchema = SCHEMA, template: Any = "steerlm", **provenance: Any) -> Path:
    """Write a steerable checkpoint of random weights."""
    tokenizer = byte_tokenizer(schema, template)
    model = random_model(tiny_llama_config(len(tokenizer)))
    model.config.pad_token_id = tokenizer.pad_token_id
    found = {"base_model": "org/base-1B", "recipe": {"learning_rate": 5e-6}, **provenance}
    info = CheckpointInfo("sft", schema, template, True, STATISTICS, found)
    save_model(folder, model, tokenizer, info, "the card of training")
    return folder


def scorer(folder: Path, schema: AttributeSchema, config: Any = None, **statistics: Any) -> Path:
    """Write a regression attribute model of random weights, with the outputs near the middle of the scale."""
    tokenizer = byte_tokenizer(schema)
    names = output_names(schema)
    config = config or tiny_llama_config(len(tokenizer))
    config.num_labels, config.pad_token_id = len(names), tokenizer.pad_token_id
    config.id2label = dict(enumerate(names))
    config.problem_type = "regression"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.score.weight.normal_(0, 0.15)
    provenance = {"base_model": "org/base-1B", "max_length": 256, "recipe": {"kind": "regression"}}
    info = CheckpointInfo("regression", schema, "steerlm", True, {**STATISTICS, **statistics}, provenance)
    save_model(folder, model, tokenizer, info, "the card of training")
    return folder


def finished_run(folder: Path) -> Path:
    """Write what an export reads of a run: models, results of the final one, the attribute model's report, recipe."""
    for stage in ("train_attribute_model", "train_sft", "bootstrap", "evaluate"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "done.json").write_text("{}")
    steerable(folder / "train_sft" / "model")
    final = steerable(folder / "bootstrap" / "model", base_model=str(folder / "train_sft" / "model"))
    scorer(folder / "train_attribute_model" / "model", SCHEMA)
    (folder / "train_attribute_model" / "report.json").write_bytes((RESULTS / "attribute_model.json").read_bytes())
    results = json.loads((RESULTS / "evaluate.json").read_text(encoding="utf-8"))
    results["models"]["bootstrap"]["fingerprint"] = fingerprint(final)
    (folder / "evaluate" / "results.json").write_text(json.dumps(results))
    sources = [{"name": "a", "hub": "org/chats"}, {"name": "b", "path": "own.jsonl"}, {"name": "c", "hub": "org/chats"}]
    recipe = {"name": "x", "prepare": {"sources": sources}, "bootstrap": {"rounds": 1}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def without_steerlm(code: str, folder: Path) -> Any:
    """Run code in a process that cannot import steerlm; returns what it prints as JSON on its last line."""
    barred = (
        "import sys\n"
        "class Barred:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] == 'steerlm':\n"
        "            raise ImportError('steerlm is not to be used here')\n"
        "sys.meta_path.insert(0, Barred())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", barred + code], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
