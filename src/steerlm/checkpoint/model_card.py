"""The model card of a checkpoint: what it is, how to use it, the attributes, the data, the recipe and the results.

A card is a pure function of what it shows, so that equal runs write equal files. Training writes a short one;
`steerlm export` gives it a `Publication`, and with it what people need who have nothing but the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.card_usage import describe_gguf, describe_scoring, describe_steering
from steerlm.checkpoint.info import CheckpointInfo

_PAPER = "[SteerLM](https://arxiv.org/abs/2310.05344)"
_WHAT = {
    "sft": f"A language model steered by attributes (attribute-conditioned SFT, {_PAPER}).",
    "plain": "A plain SFT baseline: trained on the same data as a steerable model, but without attributes.",
    "regression": f"An attribute model ({_PAPER}): it rates a response on every attribute at once.",
    "generative": f"An attribute model in the paper's generative form ({_PAPER}): it writes the label of a response.",
}


@dataclass(frozen=True)
class Publication:
    """What the card of an exported model shows besides.

    Attributes:
        caption: how the results were measured, as Markdown.
        metrics: the same figures for machines: `type`, `name`, `value` of the hub's model-index.
        figure: file name of the figure and what is seen on it, if there is one.
    """

    name: str
    dtype: str
    base_model: str | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    caption: str = ""
    metrics: Sequence[Mapping[str, Any]] = ()
    dataset: str = ""
    figure: tuple[str, str] | None = None
    labels: Sequence[Sequence[str]] = ()
    label_columns: Sequence[str] = ()
    gguf: Sequence[str] = ()
    modelfiles: Sequence[str] = ()


def model_card(
    info: CheckpointInfo,
    data: Mapping[str, Any],
    results: Mapping[str, Any],
    publication: Publication | None = None,
) -> str:
    """Return the text of a checkpoint's `README.md`."""
    steerable = info.kind == "sft" and info.conditioning
    base = str(info.provenance.get("base_model", "?"))
    parts = [f"---\n{yaml.safe_dump(_head(info, base, publication), sort_keys=False, allow_unicode=True)}---"]
    title = base.rstrip("/").rsplit("/", 1)[-1] if publication is None else publication.name.rsplit("/", 1)[-1]
    parts += [f"# {title}: {_title(info)}", _WHAT[info.kind if info.kind != "sft" or info.conditioning else "plain"]]
    if publication is not None:
        parts += _published(info, publication)
    else:
        if steerable:
            parts += ["## Use", describe_steering(info.schema, "path/of/this/folder", None)]
        parts += ["## Attributes", _attributes(info.schema)] if steerable or info.kind != "sft" else []
    parts += ["## Data", _table(("", ""), data)]
    parts += ["## Results" if publication is None else "## Training", _table(("", ""), results)] if results else []
    recipe = info.provenance.get("recipe")
    if recipe is not None:
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        parts += ["## Recipe section", f"```yaml\n{text}```"]
    return "\n\n".join(parts) + "\n"


def _head(info: CheckpointInfo, base: str, publication: Publication | None) -> dict[str, object]:
    """Return the card's metadata (the hub's model card specification)."""
    meta: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if info.kind == "regression" else "text-generation",
        "tags": ["steerlm"],
    }
    if publication is None:
        if base.count("/") == 1 and not base.startswith((".", "/", "~")):
            meta["base_model"] = base
        return meta
    kind = "steerable" if info.kind == "sft" else "attribute-model"
    meta["tags"] = ["steerlm", kind, *(["gguf"] if publication.gguf else [])]
    if publication.license is not None:
        meta["license"] = publication.license
    if publication.base_model is not None:
        meta |= {"base_model": publication.base_model, "base_model_relation": "finetune"}
    if publication.datasets:
        meta["datasets"] = list(publication.datasets)
    if publication.metrics:
        task = {"type": meta["pipeline_tag"]}
        dataset = {"name": publication.dataset, "type": "held-out"}
        results = [{"task": task, "dataset": dataset, "metrics": [dict(row) for row in publication.metrics]}]
        meta["model-index"] = [{"name": publication.name.rsplit("/", 1)[-1], "results": results}]
    return meta


def _published(info: CheckpointInfo, publication: Publication) -> list[str]:
    parts: list[str] = []
    if info.kind == "sft":
        parts += ["## Dials", _attributes(info.schema), _CONTROL]
        parts += ["## Use", describe_steering(info.schema, publication.name, publication.dtype)]
        if publication.gguf:
            parts += ["## llama.cpp and Ollama", describe_gguf(publication.gguf, publication.modelfiles)]
        parts += ["## Does it steer?"]
    else:
        parts += ["## Attributes", _attributes(info.schema)]
        parts += ["## Use", describe_scoring(info, publication.name, publication.dtype)]
        parts += ["## How good is it?"]
    if publication.figure is not None:
        file, seen = publication.figure
        parts.append(f"![{seen}]({file})")
    if publication.rows:
        parts += [_rows(publication.columns, publication.rows), publication.caption]
    else:
        parts.append("Not measured yet: the export found no evaluation of this model.")
    if publication.labels:
        parts += ["## The labels it learned from", _rows(publication.label_columns, publication.labels), _LABELS]
    return [*parts, "## Terms", _terms(publication)]


_CONTROL = (
    "Without a setting all dials stand at their defaults; a dial that a setting leaves out is not asked for. Expose to "
    "your users only the dials you want turned: a model that can be asked for toxicity will deliver it."
)
_LABELS = "The attribute model that labelled the training data, against people's labels that it had not seen."


def _terms(publication: Publication) -> str:
    base = f"`{publication.base_model}`" if publication.base_model is not None else "the base model"
    if publication.license is not None:
        return f"The license is that of {base}. The terms of the training data hold as well."
    return (
        f"No license is set: the terms of {base} and of the training data hold. Name one as `license:` in the head "
        "of this file before you publish it."
    )


def _title(info: CheckpointInfo) -> str:
    if info.kind == "sft":
        return "steerable by attributes" if info.conditioning else "plain SFT"
    return f"attribute model ({info.kind})"


def _attributes(schema: AttributeSchema) -> str:
    rows = ["| attribute | values | default | what it means |", "|---|---|---|---|"]
    for a in schema:
        values = f"{a.minimum}..{a.maximum}" if a.kind == "ordinal" else ", ".join(a.categories)
        rows.append(f"| {a.name} | {values} | {a.default_value} | {_cell(a.description)} |")
    return "\n".join(rows)


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(str(value).split()).replace("|", "\\|")
