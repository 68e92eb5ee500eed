"""Fine-tuning of a steerable model on groups of responses, for every stage that does so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from steerlm.attributes import AttributeSchema, Value
from steerlm.batching.groups import EncodedGroup, GroupedExamples, TrainedIds
from steerlm.checkpoint.models import context_length, default_device, load_causal_lm, load_info, load_tokenizer
from steerlm.config import ContrastConfig, RefineConfig, TrainSftConfig
from steerlm.conversation import Message
from steerlm.stages.train_sft import SftStart, save_tuned, start_of
from steerlm.storage.claims import digest_of
from steerlm.storage.files import read_json, write_json
from steerlm.storage.ranks import Ranks
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.training.distributed import ranks
from steerlm.training.likelihood import log_probabilities
from steerlm.training.loop import train
from steerlm.training.losses import GroupLoss
from steerlm.training.trainer import Objective

Data = tuple[GroupedExamples, GroupedExamples, Mapping[str, object]]
"""Groups to train on and to validate on, and what of them stands in the model card."""

_DECIMALS = 4
"""Of a log-probability: far more than any sampling error, and the file does not depend on the last bit."""


def tune_on_groups(
    config: TrainSftConfig,
    data: Callable[[SftStart], Data],
    objective: Objective,
    group_loss: GroupLoss,
    schema: AttributeSchema,
    out: Path,
    seed: int,
    owner: Mapping[str, object],
) -> Mapping[str, Any]:
    """Train a steerable model on groups of responses, as `train_sft` trains one on conversations.

    Args:
        config: how to train; its base model is the steerable model.
        out: receives `model/`, `checkpoints/`, `metrics.jsonl` and `summary.json`; resumable.
        owner: all that the result depends on beside `config`; stands in the checkpoint's provenance.
    """
    made_from = digest_of(config.model_dump(mode="json"), objective, schema.to_dict(), seed, dict(owner))[:16]
    summary_path = out / "summary.json"
    if summary_path.is_file():
        finished: Mapping[str, Any] = read_json(summary_path)
        if finished["owner"] == made_from:
            return finished
    set_seed(seed)
    start = start_of(config, schema)
    learned, held_out, counts = data(start)
    course = train(config, start.model, start.tokenizer, learned, held_out, objective, out, seed, group_loss=group_loss)
    before = load_info(config.base_model)
    provenance = {**before.provenance, "base_model": config.base_model, objective: {**owner, "seed": seed}}
    info = dataclasses.replace(before, provenance=provenance, strengths={})  # those were chosen for other weights
    summary = {**counts, **course, "owner": made_from}
    if ranks().is_main_process:
        save_tuned(config, start.model, start.tokenizer, info, counts, course, out)
        write_json(summary_path, summary)
    ranks().wait_for_everyone()
    return summary


def tuning_section(config: RefineConfig | ContrastConfig, sft: TrainSftConfig, model: Path) -> TrainSftConfig:
    """Return how a steerable model is trained further: as before, where `config` says nothing else."""
    return sft.model_copy(
        update={
            "base_model": str(model),
            "learning_rate": config.learning_rate or sft.learning_rate,
            "epochs": config.epochs,
            "max_steps": -1,
            "warmup_steps": sft.further_warmup,
            "tokens_per_batch": config.tokens_per_batch or sft.tokens_per_batch,
            "gradient_accumulation_steps": config.gradient_accumulation_steps or sft.gradient_accumulation_steps,
        }
    )


def encode_response(
    encoder: ConversationEncoder, messages: Sequence[Message], text: str, requested: Mapping[str, Value]
) -> TrainedIds:
    """Return the ids of a response behind the header of a request (empty: without one), trained alone."""
    encoded = encoder.conversation([*messages, Message("assistant", text, requested or None)], turns="last")
    return encoded.input_ids, encoded.loss_mask


Texts = tuple[Sequence[Message], Mapping[str, Value], Sequence[str]]
"""A conversation, a request, and responses to both."""

Likelihood = Callable[[Sequence[Texts]], list[list[float | None]]]
"""Returns log-probabilities of the responses, their end tokens counted; None where one is too long."""


def open_likelihood(model: Path, schema: AttributeSchema, config: TrainSftConfig, devices: int = 1) -> Likelihood:
    """Load what says how likely responses are to a model; more than one device share it.

    Raises:
        UserError: a model that cannot be cut into so many parts, or fewer devices.
    """
    if devices == 1:
        return Likelihoods(model, schema, config)
    ranks: Ranks[Likelihoods] = Ranks(devices, partial(Likelihoods, model, schema, config, devices))
    return partial(ranks.call, Likelihoods.__call__)


class Likelihoods:
    """Says how likely responses are to a model.

    Args:
        model: a checkpoint with a template of ours.
        config: precision and batches are those of the training.
        spread: over so many processes, of which this is one (`open_likelihood` starts them).
    """

    def __init__(self, model: Path, schema: AttributeSchema, config: TrainSftConfig, spread: int = 1):
        self._config = config
        self._model = load_causal_lm(model, spread=spread).to(default_device())
        tokenizer = load_tokenizer(model)
        self._pad_id = int(tokenizer.pad_token_id)
        self._encoder = ConversationEncoder(tokenizer, schema)
        self._max_length = min(config.max_length, context_length(self._model.config, tokenizer))

    def __call__(self, groups: Sequence[Texts]) -> list[list[float | None]]:
        """See `Likelihood`."""
        found: list[list[float | None]] = []
        places: list[tuple[int, int]] = []
        encoded = []
        for number, (messages, requested, texts) in enumerate(groups):
            rows = [encode_response(self._encoder, messages, text, requested) for text in texts]
            fitting = [i for i, (ids, _) in enumerate(rows) if len(ids) <= self._max_length]
            found.append([None] * len(rows))
            if fitting:
                places += [(number, i) for i in fitting]
                nothing = [0.0] * len(fitting)
                encoded.append(EncodedGroup([rows[i] for i in fitting], nothing, nothing))
        if encoded:
            examples = GroupedExamples.of(encoded)
            budget, precision = self._config.tokens_per_batch, self._config.precision
            values = log_probabilities(self._model, examples, self._pad_id, budget, precision)
            for (number, i), value in zip(places, values.tolist(), strict=True):
                found[number][i] = round(value, _DECIMALS)
        return found
