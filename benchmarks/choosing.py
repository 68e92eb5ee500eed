"""How many ratings `rate new --select uncertain` saves: label error against ratings, chosen and drawn at random.

    python -m benchmarks.choosing RUN --out docs/results/choosing.json

RUN is a playground run: its replies have a true level per attribute. Simulated annotators (the playground's bias and
noise) rate the chosen replies; the attribute model is a head in closed form on an encoder (`--encoder`), else on the
words of the reply; its mean absolute error is taken on replies that nobody rated. What choosing could bring at most is
measured beside it: replies chosen by their true levels, which nobody knows, and random replies rated without noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import load_encoder, load_tokenizer, resize_embeddings
from steerlm.conversation import Message, read_conversations
from steerlm.scorers.attribute_models import encode_for_scoring
from steerlm.scorers.choosing import Candidate, choose, choose_by_features, turn_features
from steerlm.scorers.features import Readout
from steerlm.scorers.reading import read_features
from steerlm.scorers.ridge import GroupedRidge
from steerlm.storage.files import write_json
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template

NUMBERS = (60, 100, 120, 160, 200, 240, 300, 400)
BIAS, NOISE, ANNOTATORS = 0.3, 0.6, 6


def read(run: Path, encoder: str | None, most: int) -> dict[str, np.ndarray]:
    """Return features, truth, groups and texts of some of the run's replies."""
    schema = AttributeSchema.from_dict(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["attributes"])
    turns, truth, groups = [], [], []
    for record in read_conversations(run / "prepare" / "train.jsonl", schema):
        for number, turn in enumerate(record.assistant_turns):
            turns.append(record.messages[: turn + 1])
            truth.append([record.meta["meta"]["truth"][number][name] for name in schema.names])
            groups.append(record.group)
    kept = np.random.default_rng(0).permutation(len(turns))[:most]
    texts = [turns[i][-1].content for i in kept]
    if encoder is None:
        features = turn_features([Candidate(text) for text in texts])
    else:
        features = encoded_features(encoder, schema, [turns[i] for i in kept])
    return {
        "features": features,
        "truth": np.array(truth, dtype=np.float64)[kept],
        "groups": np.array(groups)[kept],
        "texts": np.array(texts),
    }


def encoded_features(encoder: str, schema: AttributeSchema, turns: Sequence[Sequence[Message]]) -> np.ndarray:
    """Return what the head of an attribute model on an encoder reads."""
    tokenizer = load_tokenizer(encoder)
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
    added = install_template(tokenizer, "steerlm", schema)
    conversations = ConversationEncoder(tokenizer, schema)
    model = load_encoder(encoder)
    resize_embeddings(model, tokenizer, added)
    ids = [encode_for_scoring(conversations, turn, 256) for turn in turns]
    found = read_features(
        model, Readout.of(encoder), int(tokenizer.pad_token_id), conversations.control_ids, ids, "fp32", 4096
    )
    return np.asarray(found, dtype=np.float32)


def error(data: dict[str, np.ndarray], rated: np.ndarray, ratings: np.ndarray, test: np.ndarray, top: float) -> float:
    """Return the mean absolute error, over attributes, of a head that learned from the ratings."""
    ridge = GroupedRidge(data["features"][rated], data["groups"][rated])
    errors = []
    for k in range(ratings.shape[1]):
        fit = ridge.fit(ratings[rated, k])
        said = np.clip(data["features"][test] @ fit.weight + fit.bias, 0, top)
        errors.append(np.abs(said - data["truth"][test, k]).mean())
    return float(np.mean(errors))


def levels_apart(truth_N_A: np.ndarray) -> np.ndarray:
    """Return a feature per level of every attribute (N, levels), and a constant one."""
    levels = [truth_N_A[:, k, None] == np.unique(truth_N_A[:, k]) for k in range(truth_N_A.shape[1])]
    return np.hstack([*levels, np.full((len(truth_N_A), 1), 0.1)]).astype(np.float64)


def needed(numbers: np.ndarray, errors: np.ndarray, wanted: float) -> float:
    """Return the number of ratings at which a falling curve reaches an error, read between its points."""
    falling = np.minimum.accumulate(errors)
    if falling[-1] > wanted:
        return float("nan")
    return float(np.exp(np.interp(-wanted, -falling, np.log(numbers))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--encoder", help="folder of an encoder; default: words")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--replies", type=int, default=2400)
    arguments = parser.parse_args()
    data = read(arguments.run, arguments.encoder, arguments.replies)
    truth = data["truth"]
    curves: dict[str, list[list[float]]] = {"random": [], "uncertain": [], "known levels": [], "no noise": []}
    for seed in range(arguments.seeds):
        random = np.random.default_rng(seed)
        order = random.permutation(len(truth))
        test, pool = order[: len(order) // 4], order[len(order) // 4 :]
        bias = random.normal(0, BIAS, (ANNOTATORS, truth.shape[1]))[random.integers(0, ANNOTATORS, len(truth))]
        ratings = np.clip(np.round(truth + bias + random.normal(0, NOISE, truth.shape)), 0, truth.max())
        chosen = pool[choose([Candidate(str(data["texts"][i])) for i in pool], max(NUMBERS))]
        known = pool[choose_by_features(levels_apart(truth[pool]), max(NUMBERS))]
        for name, ranked, given in (
            ("random", pool, ratings),
            ("uncertain", chosen, ratings),
            ("known levels", known, ratings),
            ("no noise", pool, truth),
        ):
            curves[name].append([error(data, ranked[:n], given, test, float(truth.max())) for n in NUMBERS])
    numbers = np.array(NUMBERS, dtype=np.float64)
    shares = [
        [
            needed(numbers, np.array(u), r[NUMBERS.index(n)]) / n
            for r, u in zip(curves["random"], curves["uncertain"], strict=True)
        ]
        for n in (200, 300, 400)
    ]
    result = {
        "run": "playground",
        "replies": len(truth),
        "attribute_model": "words" if arguments.encoder is None else Path(arguments.encoder).name,
        "seeds": arguments.seeds,
        "ratings": list(NUMBERS),
        "label_error": curves,
        "share_of_ratings_for_the_error_of_random": dict(zip(("200", "300", "400"), shares, strict=True)),
    }
    write_json(arguments.out, result)
    means = {name: np.mean(rows, axis=0).round(3).tolist() for name, rows in curves.items()}
    print(json.dumps({**means, "shares": np.nanmean(shares, axis=1).round(2).tolist()}))


if __name__ == "__main__":
    main()
