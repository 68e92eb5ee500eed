"""Stops a run before hours are spent on dials that have learned nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steerlm.errors import UserError

COLLAPSED = 0.99
"""Share of labels on one level from which a dial has nothing to tell apart."""
_FEWEST = 20
"""With fewer held-out labels the error says nothing."""
_GO_ON = "`--force` goes on all the same"


def refuse_useless_dials(summary: Mapping[str, Any]) -> None:
    """Raise where an attribute model is no better than the mean on an attribute.

    Args:
        summary: what `train_attribute_model` returned.

    Raises:
        UserError: naming the attributes, their rows, error ratios and what would help.
    """
    rows = summary["train"]["labels"]
    found = []
    for name, row in summary["attributes"].items():
        error, of_mean = (
            (row["mae"], row["mean_baseline_mae"])
            if "mae" in row
            # of a categorical attribute, the share that is missed
            else ({"value": 1 - row[key]["value"]} for key in ("accuracy", "commonest_baseline_accuracy"))
        )
        if row["n"] >= _FEWEST and error["value"] >= of_mean["value"] > 0:
            found.append(
                f"{name} ({rows[name]} rated turns; error {error['value'] / of_mean['value']:.2f} of that of the mean)"
            )
    if found:
        raise UserError(
            f"the attribute model is no better than the mean on {', '.join(found)}: its labels would teach a dial "
            "nothing. More or clearer ratings, an encoder as base_model, or leaving the attribute out would help; "
            f"{_GO_ON}"
        )


def refuse_collapsed_labels(summary: Mapping[str, Any]) -> None:
    """Raise where nearly all turns got one level of an attribute.

    Args:
        summary: what `annotate` returned.

    Raises:
        UserError: naming the attributes, the levels and what would help.
    """
    found = []
    for name, histogram in summary["histograms"].items():
        total = sum(histogram.values())
        level, most = max(histogram.items(), key=lambda item: item[1])
        if total and most >= COLLAPSED * total:
            found.append(f"{name} ({most} of {total} turns at {level})")
    if found:
        raise UserError(
            f"nearly all labels are on one level: {', '.join(found)}: a dial cannot be learned from that. Data in "
            f"which the attribute varies, or leaving it out, would help; {_GO_ON}"
        )
