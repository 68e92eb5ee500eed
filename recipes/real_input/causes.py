"""Real input, what each part of the attribute model's head is worth, alone and left out, and what ranks can teach it.

    python recipes/real_input/causes.py --data runs/real_input_data --out docs/results/real_input/causes.json

`plain` is ridge regression on the encoder's first token in the last layer, one output per attribute for all sources,
without lengths; `full` is what the stage fits. Each remedy is added to the one and left out of the other. The figure is
root mean squared error over that of the mean on the test rows, averaged over attributes and sources, with intervals
from resampled prompts.

`own_ranks` is what such a head predicts of ranked replies (open_assistant) when it is fitted to these very ranks, in
folds of whole trees: how much of people's order the features hold at all. Writes numbers only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from baselines import BLOCK, MAX_LENGTH, RECIPE, Row, labelled_rows
from measure import ranks
from numpy.typing import NDArray

from steerlm.attributes import AttributeSchema
from steerlm.batching.batches import Ids
from steerlm.batching.collating import pad_tokens
from steerlm.checkpoint.models import autocast_bf16, load_encoder, load_tokenizer, resize_embeddings
from steerlm.config import SourceConfig, load_recipe
from steerlm.conversation import Conversation, Score
from steerlm.scorers.attribute_models import encode_for_scoring, in_batches
from steerlm.scorers.features import Readout
from steerlm.scorers.ridge import GroupedRidge
from steerlm.sources import read_source
from steerlm.storage.files import atomic_writer, write_json
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template

RESAMPLES = 1000
LENGTHS = 4
REMEDIES = ("mean", "layers", "sums", "lengths", "sources")
DESCRIPTIONS = {
    "mean": "mean of the response, not the first token",
    "layers": "four layers, not the last alone",
    "sums": "sums of the response beside",
    "lengths": "lengths beside",
    "sources": "an output per source",
}
Floats = NDArray[np.floating]


class Table(NamedTuple):
    """Rows with all features that any variant reads, by name."""

    rows: Sequence[Row]
    features: dict[str, Floats]


def read(rows: Sequence[Row], encoder: Path, schema: AttributeSchema, cache: Path) -> Table:
    """Read means, sums and first tokens of every row that fits, or take them from the cache."""
    tokenizer = load_tokenizer(encoder)
    tokenizer.bos_token = tokenizer.cls_token
    new = install_template(tokenizer, "auto", schema)
    spelled = ConversationEncoder(tokenizer, schema)
    ids = [encode_for_scoring(spelled, row.messages, MAX_LENGTH) for row in rows]
    fitting = [i for i, found in enumerate(ids) if found is not None]
    layers = Readout.of(str(encoder)).layers
    readouts = {name: Readout(name, layers) for name in ("mean", "sum", "cls")}
    model = load_encoder(encoder).eval()
    resize_embeddings(model, tokenizer, new)
    control = torch.tensor(sorted(spelled.control_ids))

    def forward(batch: list[list[Ids]], tokens: int) -> list[Floats]:
        ids_B_T, mask_B_T = pad_tokens([found for (found,) in batch], int(tokenizer.pad_token_id))
        states = model(input_ids=ids_B_T, attention_mask=mask_B_T, output_hidden_states=True).hidden_states
        found = [readout.read(states, ids_B_T, mask_B_T, control) for readout in readouts.values()]
        return list(torch.stack(found, dim=1).numpy())

    blocks = []
    for start in range(0, len(fitting), BLOCK):
        path = cache.with_name(f"{cache.name}-{start}.npy")
        if not path.is_file():
            block = [ids[i] or [] for i in fitting[start : start + BLOCK]]
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast_bf16("auto")):
                found = np.stack(in_batches(block, forward, None, 4096))
            with atomic_writer(path) as stream:
                np.save(stream, found)
        blocks.append(np.load(path, allow_pickle=False))
    features = np.concatenate(blocks)
    return Table([rows[i] for i in fitting], {name: features[:, k] for k, name in enumerate(readouts)})


def variant(table: Table, remedies: frozenset[str]) -> Floats:
    """Return the features of a variant."""
    kinds = [("mean" if "mean" in remedies else "cls")] + (["sum"] if "sums" in remedies else [])
    parts = [table.features[kind][:, :-LENGTHS] for kind in kinds]
    if "layers" not in remedies:
        parts = [part[:, -part.shape[1] // 4 :] for part in parts]
    if "lengths" in remedies:
        parts.append(table.features["mean"][:, -LENGTHS:])
    return np.hstack(parts)


def errors(train: Table, test: Table, schema: AttributeSchema, remedies: frozenset[str]) -> dict[str, Floats]:
    """Return the squared errors of the test rows by attribute and source."""
    seen, new = variant(train, remedies), variant(test, remedies)
    out = {}
    for attribute in schema.ordinal:
        name = attribute.name
        sources = sorted({row.source for row in train.rows if name in row.targets})
        for pooled in [sources] if "sources" not in remedies else [[source] for source in sources]:
            mine = [i for i, row in enumerate(train.rows) if row.source in pooled and name in row.targets]
            labels = np.array([train.rows[i].targets[name] for i in mine])
            fitted = GroupedRidge(seen[mine], [train.rows[i].group for i in mine]).fit(labels)
            useful = fitted.error_ratio < 1
            for source in pooled:
                rows = [i for i, row in enumerate(test.rows) if row.source == source and name in row.targets]
                guess = new[rows] @ fitted.weight + fitted.bias if useful else np.full(len(rows), labels.mean())
                truth = np.array([test.rows[i].targets[name] for i in rows])
                out[f"{name}/{source}"] = (guess.clip(attribute.minimum, attribute.maximum) - truth) ** 2
    return out


def of_mean(train: Table, test: Table, schema: AttributeSchema) -> tuple[dict[str, Floats], dict[str, list[str]]]:
    """Return the squared errors of the source's mean, and the groups of the test rows."""
    errors, groups = {}, {}
    for name in schema.names:
        for source in sorted({row.source for row in test.rows if name in row.targets}):
            rows = [row for row in test.rows if row.source == source and name in row.targets]
            mean = np.mean([row.targets[name] for row in train.rows if row.source == source and name in row.targets])
            errors[f"{name}/{source}"] = np.array([(row.targets[name] - mean) ** 2 for row in rows])
            groups[f"{name}/{source}"] = [row.group for row in rows]
    return errors, groups


def resampled(groups: dict[str, list[str]]) -> Callable[[dict[str, Floats]], dict[str, Floats]]:
    """Return what sums squared errors by cell: as they are first, then in resamples of the cell's prompts."""
    weights = {}
    for cell, names in groups.items():
        _, index = np.unique(names, return_inverse=True)
        count = int(index.max()) + 1
        drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
        weights[cell] = np.vstack([np.ones((1, count)), drawn])[:, index]
    return lambda errors: {cell: weights[cell] @ squared for cell, squared in errors.items()}


def summary(values: Floats) -> dict[str, float]:
    """Return the estimate and its 95 % interval."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def own_ranks(shared: Path, encoder: Path, work: Path, schema: AttributeSchema) -> dict[str, Any]:
    """Compare ranks with what a head fitted to the ranks of other trees says."""
    trees = shared / "data/open_assistant/en_100_tree.jsonl"
    source = SourceConfig(name="open_assistant", format="oasst", path=trees, preference="quality")
    paths = list(read_source(source, schema))
    distinct = {
        tuple(m.content for m in c.messages[: i + 1]): Row(
            f"{c.id}/{i}", c.source, str(c.meta["tree"]), c.messages[: i + 1], {"quality": value}
        )
        for c in paths
        for i in c.assistant_turns
        if (value := c.messages[i].target("quality")) is not None
    }
    table = read(list(distinct.values()), encoder, schema, work / "features_ranked")
    fitted = GroupedRidge(variant(table, frozenset(REMEDIES)), [row.group for row in table.rows]).fit(
        np.array([row.targets["quality"] for row in table.rows])
    )
    said = [
        Conversation(
            row.key,
            (*row.messages[:-1], replace(row.messages[-1], scores={"quality": Score(float(guess), 0.0)})),
            row.source,
            row.group,
        )
        for row, guess in zip(table.rows, fitted.held_out, strict=True)
    ]
    return {"replies": len(said), "penalty": fitted.penalty, **ranks(said, trees)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with the ranked replies")
    parser.add_argument("--data", type=Path, default=Path("runs/real_input_data"), help="folder written by convert.py")
    parser.add_argument("--work", type=Path, default=Path("runs/real_input_results"), help="holds the features")
    parser.add_argument("--out", type=Path, default=Path("docs/results/real_input/causes.json"))
    arguments = parser.parse_args()
    schema = load_recipe(RECIPE).schema_
    train, test = (
        read(labelled_rows(arguments.data / part, schema), arguments.data / "minilm", schema,
             arguments.work / f"features_{part}")
        for part in ("train", "test")
    )  # fmt: skip
    full = frozenset(REMEDIES)
    wanted = {"plain": frozenset(), "full": full}
    wanted |= {f"plain with {name}": frozenset({name}) for name in REMEDIES}
    wanted |= {f"full without {name}": full - {name} for name in REMEDIES}
    mean_errors, groups = of_mean(train, test, schema)
    sums = resampled(groups)
    bottom = sums(mean_errors)
    ratios: dict[str, Floats] = {}
    for name, remedies in wanted.items():
        top = sums(errors(train, test, schema, remedies))
        ratios[name] = np.mean([np.sqrt(top[cell] / bottom[cell]) for cell in bottom], axis=0)
        print(f"{name}: {ratios[name][0]:.3f}", flush=True)
    found: dict[str, Any] = {"test_rows": len(test.rows), "cells": len(bottom), "remedies": DESCRIPTIONS}
    found["variants"] = {
        name: {"error_ratio": summary(values), "against": summary(values - ratios[name.split()[0]])}
        for name, values in ratios.items()
    }
    found["own_ranks"] = own_ranks(arguments.shared, arguments.data / "minilm", arguments.work, schema)
    write_json(arguments.out, found)


if __name__ == "__main__":
    main()
