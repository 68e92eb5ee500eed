"""One dial: its name, its scale, and who says its value."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Literal

from steerlm.errors import UserError, did_you_mean

Value = int | str
"""A value on the schema's scale: an integer level (ordinal) or a category name (categorical)."""
NAME = re.compile(r"[a-z][a-z0-9_]*")
CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class ClassifierLabel:
    """A sequence classifier (Hugging Face id or folder) and what its labels say of an attribute.

    Attributes:
        label: the one whose probability says the value (ordinal).
        labels: (label, category) of labels that are called otherwise than the category they stand for (categorical).
    """

    model: str
    label: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, object]:
        said: dict[str, object] = {"model": self.model}
        if self.label:
            said["label"] = self.label
        if self.labels:
            said["labels"] = dict(self.labels)
        return said


@dataclass(frozen=True)
class JudgeShare:
    """How many turns an LLM rates on an attribute; the attribute model learns from them and labels the rest."""

    ratings: int


Teller = Literal["people", "measure", "classifier", "judge"]
"""Who says an attribute's value; people and judges do so through an attribute model."""


@dataclass(frozen=True)
class Attribute:
    """One dial.

    Attributes:
        name: lower-case identifier, as it stands in the text form.
        kind: `ordinal` (integer levels `minimum..maximum`) or `categorical` (one of `categories`).
        minimum: lowest level, inclusive (ordinal).
        maximum: highest level, inclusive (ordinal).
        categories: the allowed values in order (categorical).
        description: one sentence for people who turn the dial.
        default: the value at inference when the user sets nothing; None = the best end, else the minimum (of what a
            measure says the middle, for a categorical attribute its first category).
        best: which end means a better response; None where neither does. `bootstrap` maximises the
            attributes named as quality by the recipe towards this end.
        user_settable: whether an end user may set it (an operator always may).
        low: what the lowest level means, in a few words (ordinal).
        high: what the highest level means, in a few words (ordinal).
        measure: name of the text measure that says its value, or `module:function`.
        cuts: where the measure's (or the classifier's) figures are cut into levels, in rising order; empty: by
            quantiles of the training data, which are put here once these are known (ordinal).
        classifier: what else says its value.
        judge: what else says its value.
    """

    name: str
    kind: Literal["ordinal", "categorical"] = "ordinal"
    minimum: int = 0
    maximum: int = 4
    categories: tuple[str, ...] = ()
    description: str = ""
    default: Value | None = None
    best: Literal["max", "min"] | None = None
    user_settable: bool = True
    low: str = ""
    high: str = ""
    measure: str = ""
    cuts: tuple[float, ...] = ()
    classifier: ClassifierLabel | None = None
    judge: JudgeShare | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise UserError(f"attribute name {self.name!r} is not lower-case letters, digits and underscores")
        if self.kind == "ordinal":
            if self.categories:
                raise UserError(f"attribute {self.name!r} is ordinal and takes no categories; set kind: categorical")
            for bound in (self.minimum, self.maximum):
                if isinstance(bound, bool) or not isinstance(bound, int):
                    raise UserError(f"attribute {self.name!r}: the bounds are integers, got {bound!r}")
            if not 0 <= self.minimum < self.maximum:
                raise UserError(
                    f"attribute {self.name!r}: need 0 <= minimum < maximum, got {self.minimum}..{self.maximum}"
                )
        elif self.kind == "categorical":
            for category in self.categories:
                if not isinstance(category, str) or not CATEGORY.fullmatch(category):
                    raise UserError(
                        f"attribute {self.name!r}: category {category!r} must be text of letters, digits and _ . + - "
                        "(quote it in YAML)"
                    )
            if len(set(self.categories)) < 2 or len(set(self.categories)) != len(self.categories):
                raise UserError(
                    f"attribute {self.name!r}: a categorical attribute needs two or more distinct categories"
                )
            if self.best is not None:
                raise UserError(f"attribute {self.name!r}: a categorical attribute has no best end")
            if self.low or self.high:
                raise UserError(f"attribute {self.name!r}: a categorical attribute has no low and no high end")
        else:
            raise UserError(f"attribute {self.name!r}: kind {self.kind!r} is not one of ordinal, categorical")
        if not isinstance(self.user_settable, bool):
            raise UserError(f"attribute {self.name!r}: user_settable is true or false, got {self.user_settable!r}")
        for end, words in (("low", self.low), ("high", self.high)):
            if not isinstance(words, str) or "\n" in words:
                raise UserError(f"attribute {self.name!r}: {end} is a few words on one line, got {words!r}")
        if self.best not in (None, "max", "min"):
            raise UserError(f"attribute {self.name!r}: best {self.best!r} is not one of max, min, null")
        self._check_teller()
        if self.default is not None:
            try:
                self.check(self.default)
            except UserError as error:
                raise UserError(f"the default of attribute {error}") from None

    def _check_teller(self) -> None:
        named = [key for key in ("measure", "classifier", "judge") if getattr(self, key)]
        if len(named) > 1:
            raise UserError(f"attribute {self.name!r}: one of {', '.join(named)} says its value, not several")
        if not isinstance(self.measure, str):
            raise UserError(f"attribute {self.name!r}: measure is a name or module:function, got {self.measure!r}")
        if self.classifier is not None:
            self._check_classifier(self.classifier)
        if not self.cuts:
            return
        if not (self.measure or self.classifier) or self.kind != "ordinal":
            raise UserError(
                f"attribute {self.name!r}: cuts belong to a measure or a classifier of an ordinal attribute"
            )
        for cut in self.cuts:
            if isinstance(cut, bool) or not isinstance(cut, (int, float)) or not math.isfinite(cut):
                raise UserError(f"attribute {self.name!r}: a cut is a finite number, got {cut!r}")
        for low, high in itertools.pairwise(self.cuts):
            if low >= high:
                raise UserError(f"attribute {self.name!r}: cuts rise, but {high:g} stands behind {low:g}")
        if len(self.cuts) != self.maximum - self.minimum:
            raise UserError(
                f"attribute {self.name!r}: {len(self.cuts)} cuts make {len(self.cuts) + 1} levels, but "
                f"{self.minimum}..{self.maximum} has {self.maximum - self.minimum + 1}"
            )

    def _check_classifier(self, said: ClassifierLabel) -> None:
        if self.kind == "ordinal" and (said.labels or not said.label):
            raise UserError(
                f"attribute {self.name!r}: classifier is {{model: …, label: …}}, the label whose probability says "
                "its level"
            )
        if self.kind == "categorical":
            if said.label:
                raise UserError(
                    f"attribute {self.name!r} is categorical: classifier is {{model: …}} where its labels are called "
                    "as the categories, else {model: …, labels: {LABEL: category}}"
                )
            for label, category in said.labels:
                if category not in self.categories:
                    raise UserError(
                        f"attribute {self.name!r}: classifier.labels: {label!r} means {category!r}: "
                        f"{did_you_mean(category, self.categories)}"
                    )

    @property
    def said_by(self) -> Teller:
        """Who says its value."""
        if self.measure:
            return "measure"
        if self.classifier is not None:
            return "classifier"
        return "people" if self.judge is None else "judge"

    @property
    def learned(self) -> bool:
        """Whether an attribute model says its value, taught by people or a judge."""
        return self.said_by in ("people", "judge")

    @property
    def levels(self) -> tuple[Value, ...]:
        """All values in order."""
        if self.kind == "ordinal":
            return tuple(range(self.minimum, self.maximum + 1))
        return self.categories

    @property
    def best_value(self) -> Value | None:
        """The value at the best end; None where neither end is better."""
        return {"max": self.maximum, "min": self.minimum, None: None}[self.best]

    @property
    def default_value(self) -> Value:
        """The value at inference when nothing is set; of what a measure says, and nobody calls best, the middle."""
        if self.default is not None:
            return self.default
        if self.best_value is not None:
            return self.best_value
        return self.levels[len(self.levels) // 2 if self.measure and self.kind == "ordinal" else 0]

    @property
    def signature(self) -> str:
        """Name and scale in one word, for example `quality:0-4` or `lang:en|de`."""
        scale = f"{self.minimum}-{self.maximum}" if self.kind == "ordinal" else "|".join(self.categories)
        return f"{self.name}:{scale}"

    def check(self, value: object) -> Value:
        """Return `value` if it is on the scale.

        Raises:
            UserError: with the value, the name and the valid range.
        """
        if self.kind == "categorical":
            if isinstance(value, str) and value in self.categories:
                return value
            raise UserError(f"{self.name}: {value!r} is not one of {', '.join(self.categories)}")
        if isinstance(value, int) and not isinstance(value, bool) and self.minimum <= value <= self.maximum:
            return value
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{self.name}: {value!r} is not a finite number")
        raise UserError(f"{self.name}: {value!r} is not an integer from {self.minimum} to {self.maximum}")

    def check_rating(self, rating: object) -> float:
        """Return a real-valued rating if it is finite and within the range (ordinal only)."""
        if self.kind != "ordinal":
            raise UserError(f"{self.name}: a categorical attribute has no numeric rating, got {rating!r}")
        if isinstance(rating, bool) or not isinstance(rating, (int, float)):
            raise UserError(f"{self.name}: rating {rating!r} is not a number")
        if not math.isfinite(rating):
            raise UserError(f"{self.name}: rating {rating!r} is not a finite number")
        if not self.minimum <= rating <= self.maximum:
            raise UserError(f"{self.name}: rating {rating!r} is outside {self.minimum}..{self.maximum}")
        return float(rating)

    def round(self, score: float) -> int:
        """Clamp a real-valued score to the range and round it to the nearest level (half up)."""
        assert self.kind == "ordinal"
        return math.floor(min(max(score, self.minimum), self.maximum) + 0.5)

    def to_unit(self, score: float) -> float:
        """Map the scale onto 0..1 (ordinal)."""
        return (score - self.minimum) / (self.maximum - self.minimum)

    def from_unit(self, unit: float) -> float:
        """Map 0..1 onto the scale (ordinal)."""
        return self.minimum + unit * (self.maximum - self.minimum)

    def parse(self, text: str) -> Value:
        """Parse one value of the text form, strictly."""
        if self.kind == "categorical":
            return self.check(text)
        if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text, flags=re.ASCII):
            raise UserError(f"{self.name}: {text!r} is not an integer from {self.minimum} to {self.maximum}")
        return self.check(int(text))
