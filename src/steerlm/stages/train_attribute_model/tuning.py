"""Fine-tuning that starts from a head in closed form (LP-FT, Kumar et al. 2022, arXiv 2202.10054).

A head that starts at random pulls the model's features out of shape before it has learned to use them. Here it starts
as the ridge regression that fits them best. Every (attribute, source) counts by a power of its number of labels, its
errors in units of its labels' spread, so that neither the largest source nor the widest scale decides alone; the best
checkpoint is the one with the lowest error over that of the mean, averaged over them. N turns, F features, O outputs,
T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.batching.batches import RegressionExamples
from steerlm.config import TrainAttributeModelConfig
from steerlm.scorers.features import Readout
from steerlm.scorers.ridge import dead_features, group_folds
from steerlm.stages.train_attribute_model.examples import AttributeData
from steerlm.stages.train_attribute_model.fitting import Fitted
from steerlm.stages.train_attribute_model.outputs import Fit
from steerlm.training.loop import train
from steerlm.training.losses import Loss

HELD = 5
"""One in so many training prompts is kept from fine-tuning, to tell what it was worth."""
_HEAD_RATE = 5.0
_DECAY = 0.9
"""Each layer learns at this share of the rate of the one above it."""
_LAYER = re.compile(r"\b(?:layers?|h|blocks?)\.(\d+)\.")


class Headed(nn.Module):
    """A model and a linear head on what is read of it, which start as they were fitted.

    The head is trained on standardised features, divided by the root of their number: then a step of a given size
    moves the outputs about equally far however many there are.

    Args:
        weights: of every output, per label.
    """

    control: Tensor
    centre_F: Tensor
    scale_F: Tensor
    label_weight_O: Tensor
    mean_O: Tensor

    def __init__(
        self,
        body: PreTrainedModel,
        readout: Readout,
        control_ids: Collection[int],
        features_N_F: npt.NDArray[np.float32],
        fits: Sequence[Fit],
        weights: Sequence[float],
    ) -> None:
        super().__init__()
        self.body, self._readout = body, readout
        self._pooler_stays()
        centre_F, spread_F = features_N_F.mean(0, dtype=np.float64), features_N_F.std(0, dtype=np.float64)
        scale_F = spread_F * np.sqrt(len(spread_F))
        dead = dead_features(features_N_F)
        weight_O_F = np.stack([fit.ridge.weight for fit in fits]) / np.array([[fit.sharpness] for fit in fits])
        bias_O = np.array([fit.ridge.bias / fit.sharpness for fit in fits]) + weight_O_F @ centre_F
        scale_F[dead] = np.inf
        weight_O_F = weight_O_F * np.where(np.isinf(scale_F), 0, scale_F)

        def constant(values: npt.ArrayLike) -> Tensor:
            return torch.tensor(np.asarray(values), dtype=torch.float32)

        self.weight = nn.Parameter(constant(weight_O_F))
        self.bias = nn.Parameter(constant(bias_O))
        self.register_buffer("control", torch.tensor(sorted(control_ids)), persistent=False)
        self.register_buffer("centre_F", constant(centre_F), persistent=False)
        self.register_buffer("scale_F", constant(scale_F), persistent=False)
        self.register_buffer("label_weight_O", constant(weights), persistent=False)
        self.register_buffer("mean_O", constant([fit.targets.mean() for fit in fits]), persistent=False)

    def _pooler_stays(self) -> None:
        for name, parameter in self.body.named_parameters():
            if "pooler" in name:
                parameter.requires_grad_(False)

    def get_base_model(self) -> PreTrainedModel:
        """Return the model inside, as adapters do."""
        return self.body

    def activation_checkpointing_enable(self, **settings: object) -> None:
        """Recompute the body's activations."""
        self.body.activation_checkpointing_enable(**settings)

    def gradient_checkpointing_enable(self, **settings: object) -> None:
        """Do the same under the name that it had before."""
        self.body.gradient_checkpointing_enable(**settings)

    def forward(
        self, arguments: Mapping[str, object], ids_N_T: Tensor, mask_N_T: Tensor, places_N_T: Tensor | None
    ) -> Tensor:
        """Return outputs (N, O).

        Args:
            ids_N_T: of the sequences, padded on the right.
            mask_N_T: 1 where there is a token.
            places_N_T: where they are in what a decoder is given; None: where they stand.
        """
        states: Any = self.body(**arguments, output_hidden_states=True).hidden_states
        if places_N_T is not None:
            states = {layer: states[layer].flatten(0, 1)[places_N_T] for layer in self._readout.layers}
        features_N_F = self._readout.read(states, ids_N_T, mask_N_T, self.control)
        with torch.autocast(ids_N_T.device.type, enabled=False):
            return nn.functional.linear((features_N_F - self.centre_F) / self.scale_F, self.weight, self.bias)

    def parameter_groups(self, rate: float, weight_decay: float) -> list[dict[str, object]]:
        """Return the optimizer's groups: the head learns fastest, lower layers slower than those above."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {
            (rate * _HEAD_RATE, 0.0): [self.weight, self.bias],
        }
        depth = int(self.body.config.get_text_config().num_hidden_layers)
        embedded = {id(parameter) for parameter in self.body.get_input_embeddings().parameters()}
        for name, parameter in self.body.named_parameters():
            if parameter.requires_grad:
                found = _LAYER.search(name)
                below = depth - 1 - int(found[1]) if found else depth if id(parameter) in embedded else 0
                decay = weight_decay if parameter.dim() > 1 else 0.0
                groups.setdefault((rate * _DECAY**below, decay), []).append(parameter)
        return [{"params": own, "lr": lr, "weight_decay": decay} for (lr, decay), own in groups.items()]

    def loss(self, outputs_N_O: Tensor, labels_N_O: Tensor, mask_N_O: Tensor) -> Loss:
        squares_N_O = torch.where(mask_N_O, outputs_N_O - labels_N_O, 0) ** 2
        return Loss((squares_N_O * self.label_weight_O).sum(), int(mask_N_O.sum()))

    def errors(self, outputs_N_O: Tensor, labels_N_O: Tensor, mask_N_O: Tensor) -> Tensor:
        """Return the squared errors (2, O) of the outputs and of their means, summed."""
        guesses = (outputs_N_O, self.mean_O.expand_as(outputs_N_O))
        return torch.stack([(torch.where(mask_N_O, guess - labels_N_O, 0) ** 2).sum(0) for guess in guesses])


def held_out_turns(sources: Sequence[str], groups: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which turns fine-tuning shall not see: about one in `HELD` of every source, whole groups."""
    source_N, group_N = np.asarray(sources, dtype=np.str_), np.asarray(groups, dtype=np.str_)
    held: dict[str, bool] = {}
    names, sizes = np.unique(source_N, return_counts=True)
    for name in names[np.argsort(sizes, kind="stable")].tolist():
        mine = [group for group in group_N[source_N == name].tolist() if group not in held]
        if mine:
            held |= {g: bool(fold == 0) for g, fold in zip(mine, group_folds(mine, HELD).tolist(), strict=True)}
    return np.array([held[group] for group in group_N.tolist()], dtype=np.bool_)


def label_weights(fits: Sequence[Fit], sources: Sequence[str], share: Mapping[str, float], power: float) -> list[float]:
    """Return what an error of each output weighs, per label: of mean 1 over all labels' variances.

    Args:
        share: weight of every source, 1 unless given.
        power: (attribute, source) counts by its number of labels to this power.
    """
    found = []
    for fit in fits:
        parts = [other for other in fits if other.output[:2] == fit.output[:2]]  # the categories of an attribute
        variance = sum(float(part.targets.var()) for part in parts)
        count = len(fit.rows)
        weight = count**power * float(np.mean([share.get(sources[row], 1.0) for row in fit.rows])) / len(parts)
        found.append((weight, weight / (count * variance) if variance > 0 else 0.0, count))
    total, labels = sum(weight for weight, _, _ in found), sum(count for _, _, count in found)
    return [own * labels / total for _, own, _ in found]


def _examples(
    data: AttributeData, fits: Sequence[Fit], rows: Sequence[int], sources: Sequence[str]
) -> RegressionExamples:
    """Return turns with the targets of all outputs; turns of a source that has no output of its own keep none."""
    targets = np.full((len(data.labels_N_K), len(fits)), np.nan, dtype=np.float32)
    names = data.schema.names
    for o, fit in enumerate(fits):
        attribute = data.schema[fit.output.attribute]
        label_N = data.labels_N_K[:, names.index(attribute.name)].astype(np.float64)
        if fit.output.category is not None:
            wanted = attribute.categories.index(fit.output.category)
            target_N = np.where(np.isnan(label_N), np.nan, label_N == wanted)
        else:
            target_N = (label_N - attribute.minimum) / (attribute.maximum - attribute.minimum)
        mine = np.array([fit.is_of(source) for source in sources])
        targets[mine, o] = target_N[mine]
    prompts = data.examples.prompts
    return RegressionExamples(
        ((data.examples.example(i, 0).input_ids.tolist(), targets[i].tolist()) for i in rows),
        prompts=[int(prompts[i]) for i in rows],
    )


class FineTuning(NamedTuple):
    """What `train` returned, and warnings."""

    training: Mapping[str, object]
    warnings: tuple[str, ...]


def tune(
    config: TrainAttributeModelConfig,
    body: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    control_ids: Collection[int],
    readout: Readout,
    features_N_F: npt.NDArray[np.float32],
    fitted: Fitted,
    learned: AttributeData,
    held_N: npt.NDArray[np.bool_],
    held_out: AttributeData,
    share: Mapping[str, float],
    out: Path,
    seed: int,
) -> FineTuning:
    """Fine-tune a model in place, from the head that was fitted to its features.

    Args:
        held_N: the training turns that it does not learn from.
        held_out: validates, together with those.
        share: weight of every source.

    Returns:
        What `train` does, and a warning where no weight of the model has moved.
    """
    separate = {fit.output.attribute for fit in fitted.fits if fit.output.source is not None}
    fits = [fit for fit in fitted.fits if fit.output.source is not None or fit.output.attribute not in separate]
    weights = label_weights(fits, learned.sources, share, config.label_count_power)
    model = Headed(body, readout, control_ids, features_N_F, fits, weights)
    own, others = np.flatnonzero(~held_N), np.flatnonzero(held_N)
    validation = _joined(
        _examples(learned, fits, others.tolist(), learned.sources),
        _examples(held_out, fits, range(len(held_out.labels_N_K)), held_out.sources),
    )
    before = _checksums(body)
    own_examples = _examples(learned, fits, own.tolist(), learned.sources)
    found = train(config, model, tokenizer, own_examples, validation, "head", out, seed)
    unmoved = (
        f"no weight of the base model moved by step {found['best_step']}, the best one: learning_rate "
        f"{config.learning_rate:g} is too low for its precision, the steps are too few, or every gradient was 0"
    )
    return FineTuning(found, (unmoved,) if _checksums(body) == before else ())


def _checksums(body: PreTrainedModel) -> list[float]:
    return [float(p.detach().double().abs().sum()) for p in body.parameters() if p.requires_grad]


def _joined(*parts: RegressionExamples) -> RegressionExamples:
    return RegressionExamples(
        (part.example(i, 0).input_ids.tolist(), part.labels[i].tolist()) for part in parts for i in range(len(part))
    )
