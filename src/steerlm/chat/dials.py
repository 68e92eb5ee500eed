"""The dials of a chat: what can be set, how they stand, and what a user types to turn them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.errors import UserError, did_you_mean
from steerlm.generation.guidance import Wish, branches, check_wishes, turned_strengths

_OFF = ("off", "none")


@dataclass(frozen=True)
class DialSetting:
    """How the dials stand.

    Attributes:
        values: by attribute; one that is missing is left out of the prompt.
        strengths: how much attributes count; 1 where none is named.
    """

    values: Mapping[str, Wish]
    strengths: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return ",".join(
            f"{name}:{value}" + (f" (strength {self.strengths[name]:g})" if self.strengths.get(name, 1) != 1 else "")
            for name, value in self.values.items()
        )


@dataclass(frozen=True)
class ChatDials:
    """The attributes that can be set.

    Attributes:
        schema: all attributes of the checkpoint.
        trained: those with labels in the training data.
        histograms: by attribute how often each value occurred there.
        strengths: how strongly dials count that are turned away from their default, as the model says.
    """

    schema: AttributeSchema
    trained: tuple[str, ...]
    histograms: Mapping[str, Mapping[str, int]]
    strengths: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, info: CheckpointInfo) -> ChatDials:
        """Read what a checkpoint was trained on."""
        statistics = info.label_statistics.get("attributes", {}) if info.conditioning else {}
        histograms = {name: row["histogram"] for name, row in statistics.items() if row["n"]}
        trained = tuple(name for name in info.schema.names if name in histograms)
        return cls(info.schema, trained, histograms, info.strengths)

    @property
    def defaults(self) -> DialSetting:
        return DialSetting({name: self.schema[name].default_value for name in self.trained})

    def known(self, name: str, flags: Iterable[str] = ()) -> str:
        """Return the name of a dial; `flags` are other names that the user may have meant."""
        if name in self.trained:
            return name
        if not self.trained:
            raise UserError(f"cannot set {name!r}: this model was trained without attributes")
        if name in self.schema:
            raise UserError(f"{name!r} was not trained in this model; trained: {', '.join(self.trained)}")
        near = difflib.get_close_matches(name, [*self.trained, *flags], n=1)
        valid = f"its dials: {', '.join(self.trained)}"
        meant = f"did you mean {near[0]!r}? ({valid})" if near else valid
        raise UserError(f"this model has no attribute {name!r}: {meant}")

    def parse(self, name: str, text: str) -> Wish | None:
        """Return the value that `text` means on a dial; None = the dial is left out.

        Raises:
            UserError: see `known`; or a value off its scale.
        """
        attribute = self.schema[self.known(name)]
        if text in _OFF and text not in attribute.categories:
            return None
        if attribute.kind == "ordinal" and re.fullmatch(r"\d+\.\d+", text, re.ASCII):
            return check_wishes(self.schema, {name: float(text)})[name]
        return attribute.parse(text)

    def turned(
        self, setting: DialSetting, changes: Mapping[str, Wish | None], strengths: Mapping[str, float]
    ) -> DialSetting:
        """Return a setting with some dials turned, in the schema's order.

        Raises:
            UserError: the setting mixes more prompts than are possible.
        """
        wanted = {name: value for name, value in {**setting.values, **changes}.items() if value is not None}
        new = DialSetting(check_wishes(self.schema, wanted), {**setting.strengths, **strengths})
        branches(self.schema, new.values, self.counted(new))
        return new

    def counted(self, setting: DialSetting) -> dict[str, float]:
        """Return how strongly dials count: as the user said, else as the model does of those that are turned."""
        unsaid = {name: value for name, value in setting.values.items() if name not in setting.strengths}
        return {**turned_strengths(self.schema, unsaid, self.strengths), **setting.strengths}

    def parse_strength(self, name: str, text: str) -> float:
        """Return a strength."""
        self.known(name)
        if not re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII) or float(text) > 10:
            raise UserError(f"the strength of {name} is a number from 0 to 10 (1 = as trained), got {text!r}")
        return float(text)

    @property
    def example(self) -> tuple[str, str, str, str] | None:
        """A dial, its lowest value, one between and the highest, as texts; None: there is no dial."""
        names = sorted(self.trained, key=lambda name: self.schema[name].kind != "ordinal")
        if not names:
            return None
        attribute = self.schema[names[0]]
        if attribute.kind == "categorical":
            first, last = attribute.categories[0], attribute.categories[-1]
            return names[0], first, first, last
        low, high = attribute.minimum, attribute.maximum
        return names[0], str(low), str((low + high) // 2 + 0.5), str(high)

    def presets(self) -> dict[str, DialSetting]:
        """Return the named settings that fit the model."""
        from steerlm.server.policy import shipped_presets

        trained = tuple(self.schema[name] for name in self.trained)
        shipped = shipped_presets(AttributeSchema(trained)) if trained else {}
        return {name: DialSetting(preset.attributes, preset.guidance) for name, preset in shipped.items()}

    def preset(self, name: str) -> DialSetting:
        """Return a named setting."""
        presets = self.presets()
        if not presets:
            raise UserError(f"preset {name!r}: this model has no presets; set its dials one by one")
        if name not in presets:
            raise UserError(f"this model has no preset {name!r}: {did_you_mean(name, presets)}")
        return presets[name]

    def parse_flags(self, arguments: Sequence[str], flags: Iterable[str] = ()) -> dict[str, Wish | None]:
        """Parse `--humor 3 --lang=en --quality none`; `flags` are the names that stand for something else."""
        values: dict[str, Wish | None] = {}
        rest = iter(arguments)
        for argument in rest:
            if not argument.startswith("--"):
                raise UserError(f"unexpected argument {argument!r}; dials are set as --NAME VALUE after the model")
            name, equals, text = argument[2:].partition("=")
            name = self.known(name.replace("-", "_"), flags)
            value = text if equals else next(rest, None)
            if value is None:
                raise UserError(f"{argument} needs a value")
            values[name] = self.parse(name, value)
        return values

    def unseen(self, name: str, value: Wish) -> bool:
        """Whether no training label had this value, or one of the two levels it lies between."""
        levels = {int(value), int(value) + 1} if isinstance(value, float) else {value}
        return not all(self.histograms[name].get(str(level)) for level in levels)
