"""Real input, the two baselines every attribute model has to beat on the test rows.

    python recipes/real_input/baselines.py --data runs/real_input_data --out runs/real_input_results/baselines.json

* mean: the mean label of the source's training rows;
* ridge: ridge regression on frozen MiniLM sentence embeddings (mean-pooled, as the encoder was trained to be used) of
  the response and of the context with the response, plus length features. One regression per attribute and source, its
  strength chosen by cross-validation over prompts.

Both see all training rows, including those that the attribute model needs for early stopping. Writes predictions only:
numbers keyed by record and turn, no text.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlm.attributes import AttributeSchema
from steerlm.config import load_recipe
from steerlm.conversation import Message, read_conversations
from steerlm.storage.files import atomic_writer, write_json
from steerlm.storage.progress import progress

RECIPE = Path(__file__).with_name("recipe.yaml")
MAX_LENGTH = 512
ALPHAS = np.logspace(1, 5, 9)
FOLDS = 5
BLOCK = 4096
"""Texts embedded between two writes of the cache, from which an interrupted run goes on."""

Floats = NDArray[np.float64]


class Row(NamedTuple):
    """One labelled assistant turn.

    Attributes:
        key: record id and index of the turn, unique.
        source: name of the data set.
        group: prompt or dialogue, the unit of splits and of the bootstrap.
        messages: the conversation up to and including the turn.
        targets: real-valued human labels by attribute.
    """

    key: str
    source: str
    group: str
    messages: tuple[Message, ...]
    targets: Mapping[str, float]


def labelled_rows(folder: Path, schema: AttributeSchema) -> list[Row]:
    """Read every labelled assistant turn of the JSONL files in a folder."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        for conversation in read_conversations(path, schema):
            for i in conversation.assistant_turns:
                values = {a.name: conversation.messages[i].target(a.name) for a in schema.ordinal}
                targets = {name: value for name, value in values.items() if value is not None}
                if targets:
                    group = conversation.group or conversation.id
                    prefix = conversation.messages[: i + 1]
                    rows.append(Row(f"{conversation.id}/{i}", conversation.source, group, prefix, targets))
    return rows


def length_features(row: Row) -> list[float]:
    """Return the length of the response and of its context, and the shape of the response's words."""
    response = row.messages[-1].content
    context = " ".join(message.content for message in row.messages[:-1])
    words = response.split()
    distinct = {word.lower() for word in words}
    return [
        math.log1p(len(response)),
        math.log1p(len(words)),
        math.log1p(len(context)),
        math.log1p(response.count("\n")),
        len(response) / max(len(words), 1),
        len(distinct) / max(len(words), 1),
        math.log1p(len(re.findall(r"[.!?]+", response))),
        float(len(row.messages)),
    ]


def embed(texts: Sequence[str], encoder: Path, description: str) -> NDArray[np.float32]:
    """Return mean-pooled, normalised MiniLM embeddings, shape (texts, 384); long texts lose their beginning."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder, truncation_side="left")
    model = AutoModel.from_pretrained(encoder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    batches = [order[i : i + 32] for i in range(0, len(order), 32)]
    for batch in progress(batches, len(batches), description):
        inputs = tokenizer(
            [texts[i] for i in batch], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        out[batch] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    return out


def cached_embeddings(texts: Sequence[str], encoder: Path, cache: Path) -> NDArray[np.float32]:
    """Return `embed(texts)`, shape (texts, 384), computing only what `cache` does not hold yet."""
    keys = [hashlib.sha256(text.encode()).hexdigest()[:24] for text in texts]
    known: dict[str, NDArray[np.float32]] = {}
    if cache.exists():
        with np.load(cache, allow_pickle=False) as stored:
            known = dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    order = sorted(missing, key=lambda key: len(missing[key]))
    for block in (order[i : i + BLOCK] for i in range(0, len(order), BLOCK)):
        known |= zip(block, embed([missing[key] for key in block], encoder, "embeddings"), strict=True)
        with atomic_writer(cache) as stream:
            np.savez(stream, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
    return np.stack([known[key] for key in keys])


def features(rows: Sequence[Row], encoder: Path, cache: Path) -> Floats:
    """Return the ridge features, shape (rows, 2 * 384 + lengths)."""
    responses = [row.messages[-1].content for row in rows]
    dialogues = ["\n".join(message.content for message in row.messages) for row in rows]
    embeddings = cached_embeddings([*responses, *dialogues], encoder, cache)
    lengths = np.array([length_features(row) for row in rows])
    return np.hstack([embeddings[: len(rows)], embeddings[len(rows) :], lengths]).astype(np.float64)


def ridge(train: Floats, labels: Floats, groups: Sequence[str], test: Floats) -> tuple[Floats, float]:
    """Fit ridge regression with the penalty of the best grouped cross-validation; returns (predictions, penalty)."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    folds = list(GroupKFold(min(FOLDS, len(set(groups)))).split(train, labels, groups))
    model = RidgeCV(alphas=ALPHAS, cv=folds, scoring="neg_mean_squared_error").fit(scaler.transform(train), labels)
    return model.predict(scaler.transform(test)), float(model.alpha_)


def baselines(
    train: Sequence[Row], test: Sequence[Row], train_x: Floats, test_x: Floats, schema: AttributeSchema
) -> dict[str, Any]:
    """Predict every test label by both baselines, per attribute and source.

    Returns:
        `{"mean": {attribute: {row key: prediction}}, "ridge": the same, "alpha": {attribute: {source: penalty}}}`
    """
    out: dict[str, Any] = {"mean": {}, "ridge": {}, "alpha": {}}
    for attribute in schema.ordinal:
        name = attribute.name
        for source in sorted({row.source for row in train}):
            mine = [i for i, row in enumerate(train) if row.source == source and name in row.targets]
            theirs = [i for i, row in enumerate(test) if row.source == source and name in row.targets]
            if not mine or not theirs:
                continue
            labels = np.array([train[i].targets[name] for i in mine])
            predicted, alpha = ridge(train_x[mine], labels, [train[i].group for i in mine], test_x[theirs])
            predicted = predicted.clip(attribute.minimum, attribute.maximum)
            keys = [test[i].key for i in theirs]
            out["mean"].setdefault(name, {}).update(dict.fromkeys(keys, float(labels.mean())))
            out["ridge"].setdefault(name, {}).update(zip(keys, predicted.round(4).tolist(), strict=True))
            out["alpha"].setdefault(name, {})[source] = alpha
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/real_input_data"), help="folder written by convert.py")
    parser.add_argument("--out", type=Path, default=Path("runs/real_input_results/baselines.json"))
    arguments = parser.parse_args()
    schema = load_recipe(RECIPE).schema_
    train = labelled_rows(arguments.data / "train", schema)
    test = labelled_rows(arguments.data / "test", schema)
    encoder = arguments.data / "minilm"
    cache = arguments.out.with_name("embeddings.npz")
    train_x, test_x = features(train, encoder, cache), features(test, encoder, cache)
    write_json(arguments.out, baselines(train, test, train_x, test_x, schema))
    print(f"{len(train)} training rows, {len(test)} test rows -> {arguments.out}")


if __name__ == "__main__":
    main()
