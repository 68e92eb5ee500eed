"""External sequence classifiers as independent scorers, for example a toxicity classifier.

Any Hugging Face `*ForSequenceClassification` with safetensors weights; its own code is never run. Some of its labels
mean a high level of an attribute: their probability, mapped onto the attribute's range, is the score. The order of two
answers is what such a score says best; a probability of one half need not be the middle of the scale.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import ClassifierConfig, scoring_tokens
from steerlm.conversation import Score
from steerlm.errors import UserError, did_you_mean
from steerlm.scorers.protocol import Scores, Turn
from steerlm.scorers.text_measures.registry import Measured

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from steerlm.checkpoint.models import Precision

_WINDOW = 512


class ClassifierScorer:
    """A classifier as a scorer.

    It reads the answer alone, in windows of at most 512 tokens; an answer is as toxic as its most toxic window.

    Args:
        config: the model, and which of its labels mean which attribute.
        schema: the attributes.
        precision: of its weights.

    Raises:
        UserError: no such model, a regression model, an unknown label or attribute, a categorical attribute.
    """

    def __init__(self, config: ClassifierConfig, schema: AttributeSchema, precision: Precision = "auto") -> None:
        from steerlm.checkpoint.weights import fingerprint_or_name

        labels = _labels(config.model)
        for label, name in config.labels.items():
            if label not in labels:
                raise UserError(f"classifier {config.model} has no label {label!r}: {did_you_mean(label, labels)}")
            if schema[name].kind != "ordinal":
                raise UserError(
                    f"classifier {config.model}: {name!r} is categorical; a label's probability has no place on its "
                    "scale"
                )
        self._columns = {
            name: [labels.index(label) for label, attribute in config.labels.items() if attribute == name]
            for name in schema.names
            if name in config.labels.values()
        }
        self._weights = fingerprint_or_name(config.model)
        self._config, self._schema, self._precision = config, schema, precision
        self._classifier: _Classifier | None = None
        self.who = f"classifier:{self._weights} {sorted(config.labels.items())} {config.multi_label}"
        self.label = _label(config.model)
        self.attributes = tuple(self._columns)

    def independent_of(self, training: Collection[str]) -> bool:
        """See `Scorer.independent_of`; the annotating attribute model given as a classifier is not."""
        return _independent(self._weights, training)

    def score(self, turns: Sequence[Turn]) -> list[Scores | None]:
        """See `Scorer.score`."""
        config = self._config
        self._classifier = self._classifier or _Classifier(config.model, config.multi_label, self._precision)
        said = [i for i, turn in enumerate(turns) if turn[-1].content.strip()]
        rows = self._classifier.score([turns[i][-1].content for i in said], self._columns)
        scores: list[Scores | None] = [None] * len(turns)
        for i, row in zip(said, rows, strict=True):
            scores[i] = {name: Score(self._schema[name].from_unit(unit), 0.0) for name, unit in row.items()}
        return scores


class CategoryScorer:
    """A classifier that says the category of an answer.

    It reads the answer alone, in windows of at most 512 tokens, over which the probabilities of its labels are
    averaged. Labels that stand for no category say nothing: an answer that is likeliest one of these has no score.

    Args:
        attribute: categorical, with its classifier.

    Raises:
        UserError: no such model, a regression model, a category or label that it does not know.
    """

    def __init__(self, attribute: Attribute, precision: Precision = "auto") -> None:
        from steerlm.checkpoint.weights import fingerprint_or_name

        assert attribute.classifier is not None
        model, given = attribute.classifier.model, dict(attribute.classifier.labels)
        labels = _labels(model)
        for label in given:
            if label not in labels:
                raise UserError(f"classifier {model} has no label {label!r}: {did_you_mean(label, labels)}")
        meaning = {label: given.get(label, label) for label in labels}
        for category in attribute.categories:
            if category not in meaning.values():
                raise UserError(
                    f"attribute {attribute.name!r}: classifier {model} has no label {category!r}: "
                    f"{did_you_mean(category, labels)}; say which one means it, "
                    f"classifier: {{model: {model}, labels: {{LABEL: {category}}}}}, or leave the category out"
                )
        self._meaning = [meaning[label] for label in labels]
        self._weights = fingerprint_or_name(model)
        self.who = f"classifier:{self._weights} {attribute.categories} {sorted(given.items())}"
        self.label = _label(model)
        self.attributes = (attribute.name,)
        self._attribute, self._precision, self._model = attribute, precision, model
        self._classifier: _Classifier | None = None

    def independent_of(self, training: Collection[str]) -> bool:
        """See `Scorer.independent_of`."""
        return _independent(self._weights, training)

    def figures(self, turns: Sequence[Turn]) -> list[dict[str, Measured]]:
        """Return the category of every turn; nothing where there is none."""
        [name] = self.attributes
        return [{} if row is None else {name: _likeliest(row)} for row in self._categories(turns)]

    def score(self, turns: Sequence[Turn]) -> list[Scores | None]:
        [name] = self.attributes
        return [None if row is None else {name: Score(0.0, 0.0, row)} for row in self._categories(turns)]

    def _categories(self, turns: Sequence[Turn]) -> Iterator[dict[str, float] | None]:
        """Yield the probability of every category, beside one another."""
        self._classifier = self._classifier or _Classifier(self._model, None, self._precision)
        said = [turn[-1].content for turn in turns]
        rows = iter(self._classifier.means([text for text in said if text.strip()]))
        for text in said:
            if not text.strip():
                yield None
                continue
            shares: dict[str, float] = {}
            for meaning, share in zip(self._meaning, next(rows), strict=True):
                shares[meaning] = shares.get(meaning, 0.0) + share
            if _likeliest(shares) not in self._attribute.categories:
                yield None
                continue
            whole = sum(shares[category] for category in self._attribute.categories)
            yield {category: shares[category] / whole for category in self._attribute.categories}


def _label(model: str) -> str:
    return f"classifier {Path(model).name if Path(model).is_dir() else model}"


def _independent(weights: str, training: Collection[str]) -> bool:
    """Return whether no classifier with these weights labelled, whichever of its labels were taken for what."""
    return f"model:{weights}" not in training and not any(who.startswith(f"classifier:{weights} ") for who in training)


def _likeliest(shares: Mapping[str, float]) -> str:
    return max(shares, key=shares.__getitem__)


def _labels(model: str) -> list[str]:
    """Read a classifier's labels in the order of its outputs, without its weights."""
    from steerlm.checkpoint.models import load_config

    found = load_config(model)
    if found.problem_type == "regression":
        raise UserError(
            f"{model!r} is a regression model, not a classifier; an attribute model of ours belongs under "
            "attribute_models"
        )
    return [str(found.id2label[i]) for i in range(found.num_labels)]


class _Classifier:
    """A loaded classifier."""

    def __init__(self, model: str, multi_label: bool | None, precision: Precision) -> None:
        from steerlm.checkpoint.models import default_device, load_sequence_classifier, load_tokenizer
        from steerlm.threads import thread_chooser

        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(model)
        if not self.tokenizer.is_fast:
            raise UserError(f"classifier {model!r}: its tokenizer cannot cut a text into windows (no fast one)")
        self.model: PreTrainedModel = load_sequence_classifier(model, None, precision).to(default_device()).eval()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
            self.model.config.pad_token_id = self.tokenizer.pad_token_id
        # RoBERTa and its kin count positions from 2
        context = getattr(self.model.config, "max_position_embeddings", _WINDOW + 2) - 2
        self.window = min(_WINDOW, self.tokenizer.model_max_length, context)
        of_model = self.model.config.problem_type == "multi_label_classification" or self.model.config.num_labels == 1
        self.multi_label = of_model if multi_label is None else multi_label
        self._threads = thread_chooser(self.model, "classifying")

    def score(self, texts: Sequence[str], columns: Mapping[str, Sequence[int]]) -> list[dict[str, float]]:
        """Return per text and attribute the probability (0..1) of its labels, in the window where it is highest."""
        if not texts:
            return []
        owners, probabilities_W_L = self._windows(texts)
        rows: list[dict[str, float]] = [dict.fromkeys(columns, 0.0) for _ in texts]
        for window, owner in enumerate(owners):
            for name, labels in columns.items():
                of_labels = probabilities_W_L[window, list(labels)]
                # labels that exclude each other add up; of labels that may hold together the likeliest counts
                unit = float(of_labels.max() if self.multi_label else of_labels.sum().clamp(max=1.0))
                rows[owner][name] = max(rows[owner][name], unit)
        return rows

    def means(self, texts: Sequence[str]) -> list[list[float]]:
        """Return per text the probability of every label, averaged over its windows."""
        if not texts:
            return []
        owners, probabilities_W_L = self._windows(texts)
        return [probabilities_W_L[[o == i for o in owners]].mean(dim=0).tolist() for i in range(len(texts))]

    def _windows(self, texts: Sequence[str]) -> tuple[list[int], torch.Tensor]:
        """Return which text every window is of, and its probabilities, shape (windows, labels)."""
        found = self.tokenizer(
            list(texts), truncation=True, max_length=self.window, return_overflowing_tokens=True, verbose=False
        )
        return list(found["overflow_to_sample_mapping"]), self._probabilities(found["input_ids"])

    def _probabilities(self, windows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the probability of every label, shape (windows, labels)."""
        import torch

        from steerlm.batching.batches import sorted_batches
        from steerlm.threads import paced

        logits: dict[int, Any] = {}
        budget = scoring_tokens(self.model.device.type == "cpu")
        batches = sorted_batches([len(ids) for ids in windows], budget)
        for batch in paced(batches, self._threads, lambda batch: sum(len(windows[i]) for i in batch)):
            padded = self.tokenizer.pad({"input_ids": [windows[i] for i in batch]}, return_tensors="pt")
            inputs = {name: padded[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                outputs = self.model(**inputs).logits.float().cpu()
            logits.update(zip(batch, outputs, strict=True))
        logits_W_L = torch.stack([logits[i] for i in range(len(windows))])
        return logits_W_L.sigmoid() if self.multi_label else logits_W_L.softmax(dim=-1)
