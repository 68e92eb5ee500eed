"""Talk to a steerable model in the terminal; every attribute it was trained on is a dial (SteerLM, section 3.3).

    steerlm chat runs/playground/bootstrap/model --humor 3

Works as well with its input from a file or a pipe: then only what was asked for is printed.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.info import CheckpointInfo, load_info
from steerlm.conversation import Message
from steerlm.errors import UserError, did_you_mean
from steerlm.generation.engine import Engine, Request, Sampling, load_engine
from steerlm.scorers.attribute_models import LoadedAttributeModel, load_attribute_model

_HELP = {
    "/set": "show the dials",
    "/set humor 0": "turn a dial",
    "/compare humor 0 4 [QUESTION]": "the same question (or the last one) at several settings of a dial",
    "/scores": "what the attribute model says about the last answer",
    "/system [TEXT]": "set the system prompt, or remove it",
    "/reset": "forget the conversation",
    "/help": "this list",
    "/quit": "leave (so does the end of the input)",
}
_LEAST_ROOM = 64
"""Tokens an answer should have room for before the oldest exchange is dropped."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def main_loop(
    model: Path,
    arguments: Sequence[str],
    *,
    attribute_model: Path | None = None,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_k: int = 50,
    seed: int = 0,
) -> int:
    """Chat until the input ends or `/quit`.

    Args:
        model: folder of a steerable model.
        arguments: the dials from the command line: `--humor 3`, `--humor=3`.
        attribute_model: folder of an attribute model, for `/scores`.
        system: system prompt.
        max_new_tokens: longest answer.
        temperature: of the sampling; 0 = greedy.
        top_k: of the sampling; 0 = all tokens.
        seed: of the sampling; the same input gives the same chat.

    Returns:
        The exit status.

    Raises:
        UserError: not a steerable model, an unknown or untrained attribute, a value off its scale; mistakes made
            while chatting are shown and the chat goes on.
    """
    info = load_info(model)
    dials = Dials.of(info)
    chosen = dials.parse_flags(arguments)
    sampling = Sampling(max_new_tokens, temperature, top_k)
    if attribute_model is not None and load_info(attribute_model).kind == "sft":
        raise UserError(f"--attribute-model {attribute_model} is a steerable model, not an attribute model")
    console = Console(highlight=False, soft_wrap=True)
    engine = load_engine(model)
    session = Session(console, engine, dials, dials.defaults | chosen, sampling, seed, attribute_model, system)
    session.warn_of_unseen(chosen)
    if console.is_terminal:
        console.print(Text(f"{model}  {session.header}  (/help lists the commands)", style="dim"))
    for line in _lines():
        if not session.handle(line.strip()):
            break
    return 0


def _lines() -> Iterator[str]:
    """Yield what the user types, or the lines of a file or pipe."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (editing and history in input())
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/quit or Ctrl-D leaves)")


@dataclass(frozen=True)
class Dials:
    """The attributes that can be set.

    Attributes:
        schema: all attributes of the checkpoint.
        trained: those with labels in the training data.
        histograms: by attribute how often each value occurred there.
    """

    schema: AttributeSchema
    trained: tuple[str, ...]
    histograms: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, info: CheckpointInfo) -> Dials:
        """Read what a checkpoint was trained on."""
        statistics = info.label_statistics.get("attributes", {}) if info.conditioning else {}
        histograms = {name: row["histogram"] for name, row in statistics.items() if row["n"]}
        return cls(info.schema, tuple(name for name in info.schema.names if name in histograms), histograms)

    @property
    def defaults(self) -> dict[str, Value]:
        return {name: self.schema[name].default_value for name in self.trained}

    def parse(self, name: str, text: str) -> Value:
        """Return the value that `text` means on a dial.

        Raises:
            UserError: no such attribute, one that was not trained, or a value off its scale.
        """
        if name not in self.trained:
            if not self.trained:
                raise UserError(f"cannot set {name!r}: this model was trained without attributes")
            if name in self.schema:
                raise UserError(f"{name!r} was not trained in this model; trained: {', '.join(self.trained)}")
            raise UserError(f"this model has no attribute {name!r}: {did_you_mean(name, self.trained)}")
        return self.schema[name].parse(text)

    def parse_flags(self, arguments: Sequence[str]) -> dict[str, Value]:
        """Parse `--humor 3 --lang=en`.

        Raises:
            UserError: as `parse`, or an argument that is no flag with a value.
        """
        values: dict[str, Value] = {}
        rest = iter(arguments)
        for argument in rest:
            if not argument.startswith("--"):
                raise UserError(f"unexpected argument {argument!r}; dials are set as --NAME VALUE after the model")
            name, equals, text = argument[2:].partition("=")
            name = name.replace("-", "_")
            value = text if equals else next(rest, None)
            if value is None:
                self.parse(name, "")  # an unknown name is the likelier mistake
                raise UserError(f"{argument} needs a value")
            values[name] = self.parse(name, value)
        return values

    def is_unseen(self, name: str, value: Value) -> bool:
        """Whether no training label had this value."""
        return not self.histograms[name].get(str(value))


@dataclass
class Session:
    """One conversation and its dials.

    Attributes:
        console: where answers and tables are printed.
        engine: samples the answers.
        dials: what can be set.
        settings: how the dials stand.
        sampling: how to sample.
        seed: of the first answer; counts up from there.
        attribute_model: folder of the model behind `/scores`; loaded at its first use.
        system: system prompt.
        history: the turns so far; each answer carries the settings it was written with.
    """

    console: Console
    engine: Engine
    dials: Dials
    settings: dict[str, Value]
    sampling: Sampling
    seed: int = 0
    attribute_model: Path | None = None
    system: str | None = None
    history: list[Message] = field(default_factory=list)
    _scorer: LoadedAttributeModel | None = None
    _answers: int = 0
    # notes and errors stand beside the answers on a terminal, and apart from them in a pipe
    _notes: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    @property
    def header(self) -> str:
        return self.dials.schema.format(self.settings)

    def handle(self, line: str) -> bool:
        """Act on one line of input; returns whether to go on."""
        if not line:
            return True
        name, _, rest = line.partition(" ")
        if name == "/quit":
            return False
        try:
            if not line.startswith("/"):
                self.ask(line)
            elif name in (commands := self._commands()):
                commands[name](rest.strip())
            else:
                raise UserError(f"unknown command {name!r}: {did_you_mean(name, [*commands, '/quit'])}")
        except UserError as error:
            self._notes.print(Text(f"error: {_printable(str(error))}", style="red"))
        except KeyboardInterrupt:
            self._note("(stopped)")
        return True

    def _commands(self) -> dict[str, Callable[[str], None]]:
        return {
            "/set": self.set,
            "/compare": self.compare,
            "/scores": self.scores,
            "/system": self.set_system,
            "/reset": self.reset,
            "/help": self.help,
        }

    def _note(self, text: str) -> None:
        self._notes.print(Text(text, style="dim"))

    def _say(self, text: str) -> None:
        """Print text as it is: rich would read markup in it, expand its tabs and wrap its lines."""
        self.console.file.write(_printable(text))
        self.console.file.flush()

    def _prompt(self, question: Message, past: Sequence[Message]) -> tuple[Message, ...]:
        system = () if self.system is None else (Message("system", self.system),)
        return (*system, *past, question)

    def _fitting(self, question: Message, past: Sequence[Message], settings: Mapping[str, Value]) -> Request:
        """Return the request for an answer, without the oldest exchanges where the context is too short for them."""
        wanted = min(_LEAST_ROOM, self.sampling.max_new_tokens)
        seed = self.seed + self._answers
        for dropped in range(0, len(past) + 1, 2):
            request = Request(self._prompt(question, past[dropped:]), dict(settings), seed=seed)
            if self.engine.room(request) >= wanted:
                break
        return request

    def warn_of_unseen(self, names: Iterable[str]) -> None:
        """Say which of the dials stand at a value that occurs in no training label."""
        for name in names:
            if self.dials.is_unseen(name, self.settings[name]):
                self._note(f"({name} {self.settings[name]} occurs in no training label: the model can only guess)")

    def ask(self, text: str) -> None:
        """Stream an answer and remember the exchange; Ctrl-C ends the answer."""
        question = Message("user", text)
        request = self._fitting(question, self.history, self.settings)
        if dropped := len(self._prompt(question, self.history)) - len(request.messages):
            del self.history[:dropped]
            self._note(f"(the context is full: the oldest {dropped} messages are forgotten)")
        said = ""
        stopped = False
        try:
            for piece in self.engine.stream(request, self.sampling):
                said += piece
                self._say(piece)
        except KeyboardInterrupt:
            stopped = True
        self._say("\n" if said.strip() else "(no answer)\n")
        if stopped:
            self._note("(stopped)")
        self._answers += 1
        if said.strip():
            self.history += [question, Message("assistant", said, attributes=dict(self.settings))]

    def set(self, text: str) -> None:
        """`/set humor 0`, or `/set` alone."""
        if text:
            name, *values = text.replace("=", " ").split()
            value = self.dials.parse(name, values[0] if values else "")
            if len(values) > 1:
                raise UserError(f"a dial takes one value, got {' '.join(values)!r}; say it like /set humor 0")
            self.settings[name] = value
            self.warn_of_unseen([name])
            self._note(self.header)
            return
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("dial", "set to", "values", "meaning"):
            table.add_column(column, overflow="fold")
        for attribute in self.dials.schema:
            ordinal = attribute.kind == "ordinal"
            scale = f"{attribute.minimum}..{attribute.maximum}" if ordinal else " ".join(attribute.categories)
            current = str(self.settings[attribute.name]) if attribute.name in self.settings else "not trained"
            table.add_row(*(Text(cell) for cell in (attribute.name, current, scale, attribute.description)))
        self.console.print(table, soft_wrap=False)

    def compare(self, text: str) -> None:
        """`/compare humor 0 4 [QUESTION]`; what is said here does not become part of the conversation."""
        name, *words = text.split() or [""]
        levels = [str(level) for level in self.dials.schema[name].levels] if name in self.dials.trained else []
        # from the third value on, a word that is none begins the question
        count = next((i for i, word in enumerate(words) if i >= 2 and word not in levels), len(words))
        values = [self.dials.parse(name, word) for word in words[:count] or [""]]
        if len(values) < 2:
            raise UserError("two values or more are needed; say it like /compare humor 0 4")
        question = text.split(maxsplit=1 + count)[1 + count :]
        if question:
            asked, past = Message("user", question[0]), self.history
        elif self.history:
            asked, past = self.history[-2], self.history[:-2]
        else:
            raise UserError(f"there is no question yet; ask one, or say it like /compare {text} QUESTION")
        requests = [self._fitting(asked, past, {**self.settings, name: value}) for value in values]
        answers = [_printable(samples[0].text) for samples in self.engine.generate(requests, self.sampling)]
        titles = [f"{name} {value}" for value in values]
        if not self.console.is_terminal:
            for title, answer in zip(titles, answers, strict=True):
                self._say(f"[{title}]\n{answer}\n")
            return
        table = Table(show_lines=True)
        for title in titles:
            table.add_column(Text(title), ratio=1, overflow="fold")
        table.add_row(*map(Text, answers))
        self.console.print(table, soft_wrap=False)

    def scores(self, text: str) -> None:
        """`/scores`."""
        if self.attribute_model is None:
            raise UserError("/scores needs an attribute model; start the chat with --attribute-model PATH")
        if not self.history:
            raise UserError("there is no answer yet")
        if self._scorer is None:
            self._scorer = load_attribute_model(self.attribute_model)
        messages = self._prompt(self.history[-1], self.history[:-1])
        [scores] = self._scorer.score([messages])
        if scores is None:
            raise UserError("the answer is longer than the attribute model's context")
        asked = self.history[-1].attributes or {}
        values = self._scorer.values(scores)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("attribute", "asked for", "scored", "spread"):
            table.add_column(column)
        for attribute in self._scorer.schema:
            score = scores[attribute.name]
            numbers = (f"{score.mean:.2f}", f"{score.std:.2f}")
            if attribute.kind == "categorical":
                numbers = (str(values[attribute.name]), "")
            table.add_row(*map(Text, (attribute.name, str(asked.get(attribute.name, "")), *numbers)))
        self.console.print(table, soft_wrap=False)

    def set_system(self, text: str) -> None:
        """`/system TEXT`; without text there is none."""
        self.system = text or None
        self._note("(system prompt set)" if text else "(no system prompt)")

    def reset(self, text: str) -> None:
        """`/reset`."""
        self.history.clear()
        self._note("(a new conversation)")

    def help(self, text: str) -> None:
        """`/help`."""
        for command, meaning in _HELP.items():
            self.console.print(Text(f"{command:32}{meaning}"))


def _printable(text: str) -> str:
    """Drop control characters: what a model says must not steer the terminal."""
    return _UNPRINTABLE.sub("", text)
