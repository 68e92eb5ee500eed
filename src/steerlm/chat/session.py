"""One conversation in the terminal, and the commands in it.

    steerlm chat runs/playground/bootstrap/model --humor 3

Works as well with its input from a file or a pipe: then only what was asked for is printed. A dial may stand between
two levels, be left out, or count more or less than it does by itself (`steerlm.generation.guidance`).
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerlm.attributes import AttributeSchema, Value
from steerlm.chat.dials import ChatDials, DialSetting
from steerlm.chat.help import command_list
from steerlm.conversation import Message
from steerlm.errors import UserError, did_you_mean
from steerlm.generation.guidance import Wish

if TYPE_CHECKING:
    from steerlm.generation.demonstrations import Demonstrations
    from steerlm.generation.requests import Engine, Request, Sampling
    from steerlm.scorers.attribute_models import LoadedAttributeModel
    from steerlm.server.proposing import Proposer

_LEAST_ROOM = 64
"""Tokens an answer should have room for before the oldest exchange is dropped."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def chat(session: Session, greeting: str) -> None:
    """Chat until the input ends or `/quit`; on a terminal, `greeting` comes first."""
    if session.console.is_terminal:
        session.console.print(Text(f"{greeting}  {session.setting}  (/help lists the commands)", style="dim"))
    session.warn_of_unseen(session.setting.values)
    for line in _lines():
        if not session.handle(line.strip()):
            break


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


@dataclass
class Session:
    """One conversation and its dials.

    Attributes:
        console: where answers and tables are printed.
        engine: samples the answers.
        setting: how the dials stand.
        seed: of the first answer; counts up from there.
        attribute_model: folder of the model behind `/scores`; loaded at its first use.
        system: system prompt.
        history: the turns so far; each answer carries the settings it was written with.
        examples: file of annotated conversations for `/auto` and `/demonstrations`; read at their first use.
        auto: whether dials that nobody turned follow from the question.
        turned: the dials that somebody turned.
        num_demonstrations: how many training answers the model is shown.
    """

    console: Console
    engine: Engine
    dials: ChatDials
    setting: DialSetting
    sampling: Sampling
    seed: int = 0
    attribute_model: Path | None = None
    system: str | None = None
    history: list[Message] = field(default_factory=list)
    examples: Path | None = None
    auto: bool = False
    turned: set[str] = field(default_factory=set)
    num_demonstrations: int = 0
    _shown: Demonstrations | None = None
    _proposer: Proposer | None = None
    _num_shown: int = 0
    _scorer: LoadedAttributeModel | None = None
    _answers: int = 0
    # notes and errors stand beside the answers on a terminal, and apart from them in a pipe
    _notes: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

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
            elif name[1:].replace("-", "_") in self.dials.schema:
                self.set(f"{name[1:].replace('-', '_')} {rest}")
            else:
                dials = [f"/{dial}" for dial in self.dials.trained]
                raise UserError(f"unknown command {name!r}: {did_you_mean(name, [*commands, '/quit', *dials])}")
        except UserError as error:
            self._notes.print(Text(f"error: {_printable(str(error))}", style="red"))
        except KeyboardInterrupt:
            self._note("(stopped)")
        return True

    def _commands(self) -> dict[str, Callable[[str], None]]:
        return {
            "/set": self.set,
            "/strength": self.strength,
            "/preset": self.preset,
            "/compare": self.compare,
            "/auto": self.set_auto,
            "/demonstrations": self.set_demonstrations,
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

    def _fitting(self, question: Message, past: Sequence[Message], setting: DialSetting) -> Request:
        """Return the request for an answer, without the oldest exchanges where the context is too short for them."""
        from steerlm.generation.requests import Request

        wanted = min(_LEAST_ROOM, self.sampling.max_new_tokens)
        seed, strengths = self.seed + self._answers, self.dials.counted(setting) or None
        for dropped in range(0, len(past) + 1, 2):
            request = Request(self._prompt(question, past[dropped:]), setting.values, seed=seed, guidance=strengths)
            if self.engine.room(request) >= wanted:
                break
        self._num_shown = 0
        if self.num_demonstrations:
            from steerlm.generation.demonstrations import with_demonstrations

            def room(messages: tuple[Message, ...]) -> int:
                return self.engine.room(replace(request, messages=messages))

            messages, self._num_shown = with_demonstrations(
                self.shown(), request.messages, setting.values, self.num_demonstrations, room, wanted
            )
            request = replace(request, messages=messages)
        return request

    def shown(self) -> Demonstrations:
        """Return the training answers."""
        if self._shown is None:
            if self.examples is None:
                raise UserError("this needs training answers; start the chat with --examples annotate/train.jsonl")
            from steerlm.generation.demonstrations import read_demonstrations

            trained = AttributeSchema(tuple(self.dials.schema[name] for name in self.dials.trained))
            self._shown = read_demonstrations(self.examples, self.dials.schema, trained=trained)
        return self._shown

    def _propose(self, question: Message) -> None:
        """Turn the dials that nobody turned."""
        if self._proposer is None:
            from steerlm.server.proposing import fit_proposer

            self._proposer = fit_proposer(self.shown())
        proposed = self._proposer.propose([question])
        changes = {name: value for name, value in proposed.items() if name not in self.turned}
        self.setting = self.dials.turned(self.setting, changes, {})
        self._note(f"(auto: {', '.join(f'{name} {value}' for name, value in changes.items())})")

    def set_auto(self, text: str) -> None:
        """`/auto on`, `/auto off`."""
        if text not in ("on", "off"):
            raise UserError("say it like /auto on or /auto off")
        if text == "on":
            self.shown()
        self.auto = text == "on"
        self._note(f"(auto is {text})")

    def set_demonstrations(self, text: str) -> None:
        """`/demonstrations 3`."""
        if not re.fullmatch(r"\d", text, re.ASCII):
            raise UserError(f"/demonstrations takes a number from 0 to 9, got {text!r}")
        if int(text):
            self.shown()
        self.num_demonstrations = int(text)
        self._note(f"(demonstrations: {text})")

    def warn_of_unseen(self, names: Iterable[str]) -> None:
        """Say which of the dials stand at a value that occurs in no training label."""
        for name in names:
            value = self.setting.values.get(name)
            if value is not None and self.dials.unseen(name, value):
                self._note(f"({name} {value} occurs in no training label: the model can only guess)")

    def ask(self, text: str) -> None:
        """Stream an answer and remember the exchange; Ctrl-C ends the answer."""
        question = Message("user", text)
        if self.auto:
            self._propose(question)
        request = self._fitting(question, self.history, self.setting)
        kept = len(request.messages) - 2 * self._num_shown - len(self._prompt(question, ()))
        if dropped := len(self.history) - kept:
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
            self.history += [question, Message("assistant", said, attributes=self._levels())]

    def _levels(self) -> dict[str, Value]:
        """Return the setting in whole levels, as an answer in the history carries it."""
        schema = self.dials.schema
        values = self.setting.values.items()
        return {name: schema[name].round(value) if isinstance(value, float) else value for name, value in values}

    def set(self, text: str) -> None:
        """`/set humor 0`, or `/set` alone."""
        if not text:
            self._show()
            return
        name, *values = text.replace("=", " ").split()
        value = self.dials.parse(name, values[0] if values else "")
        if len(values) > 1:
            raise UserError(f"a dial takes one value, got {' '.join(values)!r}; say it like /set {name} {values[0]}")
        self.setting = self.dials.turned(self.setting, {name: value}, {})
        self.turned.add(name)
        self.warn_of_unseen([name])
        self._note(str(self.setting) or "(every dial is left out)")

    def _show(self) -> None:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("dial", "set to", "strength", "values", "meaning"):
            table.add_column(column, overflow="fold")
        counted = self.dials.counted(self.setting)
        for attribute in self.dials.schema:
            ordinal = attribute.kind == "ordinal"
            scale = f"{attribute.minimum}..{attribute.maximum}" if ordinal else " ".join(attribute.categories)
            value = self.setting.values.get(attribute.name, "off")
            current = str(value) if attribute.name in self.dials.trained else "not trained"
            strength = f"{counted.get(attribute.name, 1):g}"
            table.add_row(*(Text(cell) for cell in (attribute.name, current, strength, scale, attribute.description)))
        self.console.print(table, soft_wrap=False)

    def strength(self, text: str) -> None:
        """`/strength humor 2`."""
        name, *values = text.replace("=", " ").split() or [""]
        strength = self.dials.parse_strength(name, values[0] if len(values) == 1 else "")
        self.setting = self.dials.turned(self.setting, {}, {name: strength})
        self._note(str(self.setting))

    def preset(self, text: str) -> None:
        """`/preset teacher`; without a name there is a list."""
        if not text:
            self._note(", ".join(self.dials.presets()) or "(this model has no presets)")
            return
        chosen = self.dials.preset(text)
        self.setting = self.dials.turned(self.dials.defaults, chosen.values, chosen.strengths)
        self.turned = set(chosen.values)
        self.warn_of_unseen(self.setting.values)
        self._note(str(self.setting))

    def compare(self, text: str) -> None:
        """`/compare humor 0 4 [QUESTION]`; what is said here does not become part of the conversation."""
        name, *words = text.split() or [""]
        values: list[Wish | None] = []
        for word in words or [""]:
            try:
                values.append(self.dials.parse(name, word))
            except UserError:
                if len(values) < 2:
                    raise
                break  # from the third value on, a word that is none begins the question
        if len(values) < 2:
            raise UserError(f"two values or more are needed; say it like {self._comparison()}")
        question = text.split(maxsplit=1 + len(values))[1 + len(values) :]
        if question:
            asked, past = Message("user", question[0]), self.history
        elif self.history:
            asked, past = self.history[-2], self.history[:-2]
        else:
            raise UserError(f"there is no question yet; ask one, or say it like /compare {text} QUESTION")
        settings = [self.dials.turned(self.setting, {name: value}, {}) for value in values]
        requests = [self._fitting(asked, past, setting) for setting in settings]
        answers = [_printable(samples[0].text) for samples in self.engine.generate(requests, self.sampling)]
        titles = [f"{name} {'off' if value is None else value}" for value in values]
        if not self.console.is_terminal:
            for title, answer in zip(titles, answers, strict=True):
                self._say(f"[{title}]\n{answer}\n")
            return
        table = Table(show_lines=True)
        for title in titles:
            table.add_column(Text(title), ratio=1, overflow="fold")
        table.add_row(*map(Text, answers))
        self.console.print(table, soft_wrap=False)

    def _comparison(self) -> str:
        name, low, _, high = self.dials.example or ("DIAL", "VALUE", "", "VALUE")
        return f"/compare {name} {low} {high}"

    def scores(self, text: str) -> None:
        """`/scores`."""
        if self.attribute_model is None:
            raise UserError("/scores needs an attribute model; start the chat with --attribute-model PATH")
        if not self.history:
            raise UserError("there is no answer yet")
        from steerlm.scorers.attribute_models import load_attribute_model

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
        commands = command_list(self.dials)
        width = max(map(len, commands))
        for command, meaning in commands.items():
            self.console.print(Text(f"{command:{width}}  {meaning}"))


def _printable(text: str) -> str:
    """Drop control characters: what a model says must not steer the terminal."""
    return _UNPRINTABLE.sub("", text)
