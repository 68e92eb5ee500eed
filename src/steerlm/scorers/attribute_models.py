"""Attribute models behind one interface: step 1 of SteerLM put to work (section 3.1).

Two forms. `regression`: an encoder or decoder with one linear head, an output per ordinal attribute on the unit scale
(and one logit per category), pooled as Hugging Face's `*ForSequenceClassification` does. `generative`: the paper's,
a language model that writes the label after the response, decoded under constraint (`scorers.generative`).

    scorer = load_attribute_model("runs/playground/train_attribute_model/model")
    scores = scorer.score([messages])[0]    # {"humor": Score(mean=3.1, std=0.4), …}
    scorer.values(scores)                   # {"humor": 3, …}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.attributes import Attribute, AttributeSchema, Value, output_slices
from steerlm.batching.shared_prompts import Ids, Sharing, sharing_of
from steerlm.checkpoint.heads import head_in_fp32
from steerlm.checkpoint.models import (
    CheckpointInfo,
    Precision,
    autocast_bf16,
    context_length,
    default_device,
    fingerprint,
    load_causal_lm,
    load_encoder,
    load_info,
    load_sequence_classifier,
    load_tokenizer,
)
from steerlm.config import scoring_tokens
from steerlm.conversation import Message, Score
from steerlm.errors import UserError
from steerlm.scorers.cut_points import halves, level_of, place_of
from steerlm.scorers.generative import LabelStep, decode_labels, label_steps, longest_label
from steerlm.scorers.heads import FROZEN, Head, load_head
from steerlm.scorers.level_curves import LevelCurve
from steerlm.scorers.protocol import Scores, Turn
from steerlm.scorers.reading import feature_reader, in_batches, without_padding
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.threads import ThreadChooser, thread_chooser

Forward = Callable[[list[list[Ids]], int], list[dict[str, Score]]]
"""Scores one batch of rows within a number of tokens."""

Read = Callable[[list[list[Ids]]], Tensor]
"""Gives what a head reads of one batch of rows, (N, F), row after row."""


@dataclass(frozen=True)
class LoadedAttributeModel:
    """An attribute model in this process: a `Scorer` that can also read ahead of scoring.

    Attributes:
        schema: the attributes it was trained on.
        fingerprint: of the checkpoint.
        label: for people.
        encoder: builds the ids.
        max_length: most tokens of a conversation, what the model needs for its label not counted.
        autocast: whether to compute in bf16 autocast.
        cuts: per ordinal attribute where a mean becomes the next level; not given = at the halves.
        forward: scores one batch of rows, each of one or more token sequences, within `tokens_per_batch`; returns the
            scores row after row.
        sharing: what rows cost where sequences can share what they have in common; None: one sequence per row.
        tokens_per_batch: of a batch, unless told.
        threads: chooses how many compute; None: that is given.
        forward_for: the same for the ratings of one source; None: there is no difference.
    """

    schema: AttributeSchema
    fingerprint: str
    label: str
    encoder: ConversationEncoder
    max_length: int
    device: torch.device
    autocast: bool
    cuts: Mapping[str, Sequence[float]]
    forward: Forward
    sharing: Sharing | None
    tokens_per_batch: int
    threads: ThreadChooser | None = None
    forward_for: Callable[[str | None], Forward] | None = None

    @property
    def who(self) -> str:
        return f"model:{self.fingerprint}"

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.schema.names

    def independent_of(self, training: Collection[str]) -> bool:
        """See `Scorer.independent_of`."""
        return self.who not in training

    def score(self, turns: Sequence[Turn], tokens_per_batch: int | None = None) -> list[Scores | None]:
        """Score conversations that each end with the assistant turn to judge: `encode`, then `score_encoded`.

        Args:
            turns: what was said up to and including that turn; labels in it are not looked at.
            tokens_per_batch: upper bound of rows times longest row of a batch; None: what suits the device
                (`config.scoring_tokens`).

        Returns:
            Per conversation one `Score` per attribute, in schema order; None where that turn has no text, and where
            even the last exchange is longer than the context (older exchanges are dropped to make room).

        Raises:
            UserError: wrong roles, or a conversation that does not end with an assistant turn.
        """
        return self.score_encoded(self.encode(turns), tokens_per_batch)

    def encode(self, turns: Sequence[Turn]) -> list[list[int] | None]:
        """Return the model's input for each conversation, None where `score` has None.

        Needs the tokenizer only, so another process can do it while this one scores.
        """
        return [
            encode_for_scoring(self.encoder, turn, self.max_length) if not turn or turn[-1].content.strip() else None
            for turn in turns
        ]

    def score_encoded(
        self, rows: Sequence[Sequence[int] | Ids | None], tokens_per_batch: int | None = None
    ) -> list[Scores | None]:
        fitting = [(i, ids) for i, ids in enumerate(rows) if ids is not None]
        results: list[Scores | None] = [None] * len(rows)
        for (i, _), score in zip(fitting, self.score_ids([ids for _, ids in fitting], tokens_per_batch), strict=True):
            results[i] = score
        return results

    def score_ids(
        self, sequences: Sequence[Sequence[int] | Ids], tokens_per_batch: int | None = None
    ) -> list[dict[str, Score]]:
        """Score conversations that are ids already (`encode_for_scoring`)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            tokens_per_batch = tokens_per_batch or self.tokens_per_batch
            return in_batches(sequences, self.forward, self.sharing, tokens_per_batch, self.threads)

    def for_source(self, source: str) -> LoadedAttributeModel:
        """Return the model as it predicts the ratings of one source, on that source's own use of the scale."""
        return self if self.forward_for is None else dataclasses.replace(self, forward=self.forward_for(source))

    def values(self, scores: Mapping[str, Score]) -> dict[str, Value]:
        """Return the value on the schema's scale that each score stands for.

        The likeliest level where the model gives a distribution (as the paper's greedy decoding does), else the
        level whose cuts the mean lies between (`cut_points`).
        """
        return {attribute.name: self._value(attribute, scores[attribute.name]) for attribute in self.schema}

    def places(self, scores: Mapping[str, Score]) -> dict[str, float]:
        """Return where each score of an ordinal attribute lies on the scale, its cuts taken for the halves."""
        return {
            a.name: place_of(a, scores[a.name].mean, self._cuts(a)) for a in self.schema.ordinal if a.name in scores
        }

    def _cuts(self, attribute: Attribute) -> Sequence[float]:
        return self.cuts.get(attribute.name) or halves(attribute)

    def _value(self, attribute: Attribute, score: Score) -> Value:
        if score.probabilities is None or attribute.name in self.cuts:
            return level_of(attribute, score.mean, self._cuts(attribute))
        # max keeps the first of equals: the lowest level
        return max(attribute.levels, key=lambda level: score.probabilities[str(level)])  # type: ignore[index]


def encode_for_scoring(encoder: ConversationEncoder, messages: Sequence[Message], max_length: int) -> list[int] | None:
    """Return the input of an attribute model: the conversation up to the end of its last turn, without any label.

    Args:
        messages: ends with the assistant turn to judge; the system message is the record's own.
        max_length: most tokens; the oldest exchanges are dropped to meet it.

    Returns:
        Token ids, or None where even the last exchange is too long.
    """
    if not messages or messages[-1].role != "assistant":
        raise UserError("a conversation to score must end with an assistant turn")
    ids = encoder.conversation(messages, headers=False).input_ids
    if len(ids) <= max_length:
        return ids
    fitting = encoder.fit(messages, max_length, headers=False)
    return None if fitting is None else encoder.conversation(fitting, headers=False).input_ids


def load_attribute_model(path: str | Path, precision: Precision = "auto", spread: int = 1) -> LoadedAttributeModel:
    """Load a regression or generative attribute model, whichever the folder holds, onto the default device.

    Args:
        path: folder that `train-attribute-model` wrote.
        precision: bf16 = autocast, and bf16 weights; auto = that on a GPU with bf16, autocast on a CPU with bf16.
        spread: over so many processes, of which this is one (`scorers.spread` starts them).

    Raises:
        UserError: no such folder, no attribute model, or a damaged one; one that cannot be spread.
    """
    path = Path(path)
    info = load_info(path)
    if info.kind == "sft":
        raise UserError(
            f"{path} is a steerable model, not an attribute model; give the folder that train-attribute-model wrote"
        )
    tokenizer = load_tokenizer(path)
    head = load_head(path)
    frozen: PreTrainedModel | None = None
    if info.kind == "generative":
        model = load_causal_lm(path, precision=precision, spread=spread)
    elif head is not None and head.readout is not None:
        model = load_encoder(path, precision, spread)
        if (path / FROZEN).is_dir():
            frozen = load_encoder(path / FROZEN, precision, spread).to(default_device())
    else:
        model = load_sequence_classifier(path, precision=precision, spread=spread)
    return loaded_attribute_model(
        model.to(default_device()), tokenizer, info, fingerprint(path), precision, describe_folder(path), head, frozen
    )


def describe_folder(path: Path) -> str:
    """Return what people call the attribute model in a folder."""
    return f"attribute model {path.parent.name}/{path.name}"


def loaded_attribute_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    info: CheckpointInfo,
    model_fingerprint: str,
    precision: Precision,
    label: str = "attribute model",
    head: Head | None = None,
    frozen: PreTrainedModel | None = None,
) -> LoadedAttributeModel:
    """Put a model that is in memory behind the interface.

    Args:
        model: a sequence classifier, or an encoder where there is a head with a readout (`info.kind` regression), or a
            causal language model (generative), on its device.
        tokenizer: with its template installed.
        info: kind, schema, `provenance["max_length"]` (the length it was trained with) and of `label_statistics`
            `residual_std` (regression: spread in levels by attribute), `cut_points` and `curves` (`level_curves`).
        model_fingerprint: identifies the model in what it labels.
        head: of a regression; None: the classifier's own.
        frozen: the base model as it was before it was tuned, where the head reads that, too.

    Raises:
        UserError: a generative model that keeps a recurrent state, which cannot take a left-padded batch.
    """
    if info.kind == "generative" and model._is_stateful:
        raise UserError(
            f"{model.name_or_path!r} keeps a recurrent state and cannot be a generative attribute model; "
            "use kind: regression"
        )
    model.eval()
    if head is None:
        head_in_fp32(model)
    encoder = ConversationEncoder(tokenizer, info.schema)
    max_length = min(context_length(model.config, tokenizer), int(info.provenance["max_length"]))
    pad_id = int(tokenizer.pad_token_id)
    dtype = torch.bfloat16 if autocast_bf16(precision) else model.dtype
    attention = without_padding(model)
    label_length = 0
    forward_for: Callable[[str | None], Forward] | None = None
    if info.kind == "generative":
        steps = label_steps(encoder)
        label_length = longest_label(steps)
        forward = _by_writing(model, steps, info.schema, pad_id, dtype)
    else:
        read = _reader(model, frozen, head, encoder, pad_id, dtype)
        if head is None:
            forward = by_classifier(read, info)
        else:
            forward_for = _by_head(read, head.to(model.device), model.device, info)
            forward = forward_for(None)
    return LoadedAttributeModel(
        schema=info.schema,
        fingerprint=model_fingerprint,
        label=label,
        encoder=encoder,
        max_length=max_length - label_length,
        device=model.device,
        autocast=autocast_bf16(precision),
        cuts=info.label_statistics.get("cut_points", {}),
        forward=forward,
        threads=thread_chooser(model, "reading"),
        forward_for=forward_for,
        sharing=sharing_of(model, max_length, attention),
        tokens_per_batch=scoring_tokens(model.device.type == "cpu", info.kind == "generative"),
    )


def _reader(
    model: PreTrainedModel,
    frozen: PreTrainedModel | None,
    head: Head | None,
    encoder: ConversationEncoder,
    pad_id: int,
    dtype: torch.dtype,
) -> Read:
    """Return what runs a batch through a regression model and gives what its head reads; a classifier's own outputs."""
    if head is not None and head.readout is None:
        model.score = torch.nn.Identity()
    readout = None if head is None else head.readout
    bodies = [model] if frozen is None else [frozen.eval(), model]
    if frozen is not None:
        without_padding(frozen)
    readers = [feature_reader(body, readout, pad_id, dtype, encoder.control_ids) for body in bodies]
    return lambda rows: torch.cat([reader(rows) for reader in readers], dim=-1)


def by_classifier(read: Read, info: CheckpointInfo) -> Forward:
    """Return what scores by the outputs of a classifier, one per ordinal attribute and category."""
    residual_std = info.label_statistics.get("residual_std", {})

    def forward(rows: list[list[Ids]], tokens_per_batch: int) -> list[dict[str, Score]]:
        outputs_N_O = read(rows).double().cpu()
        return _scores(info.schema, outputs_N_O, [residual_std] * len(outputs_N_O))

    return forward


def _by_head(read: Read, head: Head, device: torch.device, info: CheckpointInfo) -> Callable[[str | None], Forward]:
    """Return what scores by a head, as one source rates or (None) in common."""
    schema = info.schema
    curves = {name: LevelCurve(tuple(row[0]), row[1]) for name, row in info.label_statistics.get("curves", {}).items()}

    def for_source(source: str | None) -> Forward:
        columns = [i for attribute in schema for i in head.columns(attribute, source)]
        ordinal = {a.name: (head.columns(a, source)[0], a.maximum - a.minimum) for a in schema.ordinal}

        def forward(rows: list[list[Ids]], tokens_per_batch: int) -> list[dict[str, Score]]:
            features_N_F = read(rows)
            with torch.autocast(device.type, enabled=False):
                outputs_N_O, spreads_N_O = head(features_N_F)
            spreads = [
                {name: float(spread_O[i]) * levels for name, (i, levels) in ordinal.items()}
                for spread_O in spreads_N_O.cpu()
            ]
            own = curves if source is None else {}
            return _scores(schema, outputs_N_O[:, columns].double().cpu(), spreads, own)

        return forward

    return for_source


def _by_writing(
    model: PreTrainedModel, steps: Sequence[LabelStep], schema: AttributeSchema, pad_id: int, dtype: torch.dtype
) -> Forward:
    """Return what scores by the labels that a language model writes."""

    def forward(rows: list[list[Ids]], tokens_per_batch: int) -> list[dict[str, Score]]:
        distributions = decode_labels(model, steps, rows, pad_id, dtype, tokens_per_batch)
        return _by_row(schema, [d.double().cpu() for d in distributions])

    return forward


def _scores(
    schema: AttributeSchema,
    outputs_N_O: Tensor,
    spreads: Sequence[Mapping[str, float]],
    curves: Mapping[str, LevelCurve] | None = None,
) -> list[dict[str, Score]]:
    """Turn outputs of a regression head into scores; an output may lie somewhat outside its range."""
    scores: list[dict[str, Score]] = []
    for outputs_O, spread in zip(outputs_N_O, spreads, strict=True):
        row: dict[str, Score] = {}
        for attribute, where in zip(schema, output_slices(schema), strict=True):
            if attribute.kind == "ordinal":
                mean = attribute.from_unit(float(outputs_O[where.start]))
                curve = (curves or {}).get(attribute.name)
                levels = None if curve is None else curve.probabilities(attribute, mean)
                row[attribute.name] = Score(mean, float(spread.get(attribute.name, 0.0)), levels)
            else:
                row[attribute.name] = _from_distribution(attribute, torch.softmax(outputs_O[where], dim=-1))
        scores.append(row)
    return scores


def _by_row(schema: AttributeSchema, distributions: Sequence[Tensor]) -> list[dict[str, Score]]:
    """Turn distributions per attribute, (B, L) each, into scores per conversation."""
    return [
        {
            a.name: _from_distribution(a, distribution_B_L[i])
            for a, distribution_B_L in zip(schema, distributions, strict=True)
        }
        for i in range(len(distributions[0]))
    ]


def _from_distribution(attribute: Attribute, probabilities_L: Tensor) -> Score:
    """Expected level and spread of a distribution over levels; 0 and 0 over categories."""
    named = {str(level): float(p) for level, p in zip(attribute.levels, probabilities_L, strict=True)}
    if attribute.kind == "categorical":
        return Score(0.0, 0.0, named)
    levels_L = torch.arange(attribute.minimum, attribute.maximum + 1, dtype=probabilities_L.dtype)
    mean = float((probabilities_L * levels_L).sum())
    variance = float((probabilities_L * (levels_L - mean) ** 2).sum())
    return Score(mean, variance**0.5, named)
