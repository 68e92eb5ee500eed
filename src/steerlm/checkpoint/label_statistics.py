"""What the labels of the training data look like: which combinations occur, and how often.

Stored in the checkpoint. Bootstrapping draws its requests from the combinations seen in training (SteerLM,
section 3.4), and a request that was never seen can be told apart from one that was.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from steerlm.attributes import AttributeSchema

MOST_COMBINATIONS = 10_000
"""Combinations kept, the commonest first."""


def label_statistics(codes_T_K: npt.NDArray[np.int16], schema: AttributeSchema) -> dict[str, object]:
    """Count the labels of T trained turns.

    Args:
        codes_T_K: per turn and attribute the index of its level, -1 where there is no label.

    Returns:
        `turns` (T), `unlabelled_turns`, `num_combinations`, `combinations` (commonest first:
        `{"attributes": {name: value}, "count": n}`; a combination may be partial), and per attribute under
        `attributes`: `n`, `histogram` by value, and for ordinal ones `mean` (None without labels).
    """
    labelled = codes_T_K[(codes_T_K >= 0).any(axis=1)]
    rows, counts = np.unique(labelled, axis=0, return_counts=True)
    # np.unique sorts the rows, so a stable sort by count leaves equal counts in a fixed order
    commonest = np.argsort(-counts, kind="stable")[:MOST_COMBINATIONS]
    combinations = []
    for i in commonest:
        values = {a.name: a.levels[code] for a, code in zip(schema, rows[i], strict=True) if code >= 0}
        combinations.append({"attributes": values, "count": int(counts[i])})
    attributes: dict[str, dict[str, object]] = {}
    for k, attribute in enumerate(schema):
        present = codes_T_K[:, k][codes_T_K[:, k] >= 0]
        histogram = np.bincount(present, minlength=len(attribute.levels)).tolist()
        attributes[attribute.name] = {
            "n": len(present),
            "histogram": {str(level): n for level, n in zip(attribute.levels, histogram, strict=True)},
        }
        if attribute.kind == "ordinal":
            mean = float(present.mean()) + attribute.minimum if len(present) else None
            attributes[attribute.name]["mean"] = mean
    return {
        "turns": len(codes_T_K),
        "unlabelled_turns": len(codes_T_K) - len(labelled),
        "num_combinations": len(rows),
        "combinations": combinations,
        "attributes": attributes,
    }
