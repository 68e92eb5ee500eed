"""An attribute model whose weights lie on several devices of this machine; see `storage.ranks`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from steerlm.batching.shared_prompts import Ids, Sharing
from steerlm.checkpoint.models import Precision, fingerprint, load_info, load_tokenizer
from steerlm.config.section import ScoringEngine
from steerlm.conversation import Score
from steerlm.scorers.attribute_models import Forward, LoadedAttributeModel, describe_folder, load_attribute_model
from steerlm.storage.ranks import Ranks
from steerlm.template.conversation_encoder import ConversationEncoder


class _Part(NamedTuple):
    """What the calling process has to know of the model; see `LoadedAttributeModel`."""

    max_length: int
    sharing: Sharing | None
    tokens_per_batch: int
    has_sources: bool


def open_attribute_model(
    path: Path, precision: Precision = "auto", devices: int = 1, engine: ScoringEngine = "local"
) -> LoadedAttributeModel:
    """Load an attribute model; more than one device share it.

    Raises:
        UserError: as `load_attribute_model`; a model that cannot be cut into so many parts, or fewer devices; an engine
            that is not installed or cannot compute it.
    """
    if engine == "vllm":
        from steerlm.scorers.vllm import load_vllm_attribute_model

        return load_vllm_attribute_model(path, precision, devices)
    if devices == 1:
        return load_attribute_model(path, precision)
    schema = load_info(path).schema
    ranks: Ranks[LoadedAttributeModel] = Ranks(devices, partial(load_attribute_model, path, precision, devices))
    part: _Part = ranks.call(_describe)

    def forward(source: str | None) -> Forward:
        def scores(rows: list[list[Ids]], tokens_per_batch: int) -> list[dict[str, Score]]:
            found: list[dict[str, Score]] = ranks.call(_score, source, rows, tokens_per_batch)
            return found

        return scores

    return LoadedAttributeModel(
        schema=schema,
        fingerprint=fingerprint(path),
        label=describe_folder(path),
        encoder=ConversationEncoder(load_tokenizer(path), schema),
        max_length=part.max_length,
        device=torch.device("cpu"),
        autocast=False,
        cuts=load_info(path).label_statistics.get("cut_points", {}),
        forward=forward(None),
        forward_for=forward if part.has_sources else None,
        sharing=part.sharing,
        tokens_per_batch=part.tokens_per_batch,
    )


def _describe(model: LoadedAttributeModel) -> _Part:
    return _Part(model.max_length, model.sharing, model.tokens_per_batch, model.forward_for is not None)


def _score(
    model: LoadedAttributeModel, source: str | None, rows: list[list[Ids]], tokens_per_batch: int
) -> list[dict[str, Score]]:
    chosen = model if source is None else model.for_source(source)
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=model.autocast)
    with torch.inference_mode(), autocast:
        return chosen.forward(rows, tokens_per_batch)
