"""What a comparison compares: systems, the prompts they all answer, and their answers.

A system is written `NAME=WHERE`, where WHERE is a checkpoint, an endpoint or a file of stored answers:

    tuned=runs/x/bootstrap/model@humor=4,verbosity=1     a steerable checkpoint at a setting (others at their defaults)
    base=some-org/some-chat-model                        any Hugging Face chat model, a folder or an id
    served=https://host/v1#model-name@humor=4            an OpenAI-compatible endpoint, with a setting where it steers
    theirs=answers.jsonl                                 stored answers: ours, FastChat's or QLoRA's
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from steerlm.attributes import AttributeSchema, Value
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.scorers.llm.protocols import BenchmarkQuestion
from steerlm.sources.prompts import AskedPrompt
from steerlm.sources.prompts import read_prompts as file_prompts
from steerlm.stages.evaluate.sweeping import drawn, prompt_seed
from steerlm.studies.judge.formats import read_answers
from steerlm.studies.names import require_distinct_names

Kind = Literal["steerable", "plain", "endpoint", "stored"]

_SETTING = re.compile(r"^(?P<where>.+?)@(?P<setting>\w+=[^@/]*)$")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_FORMS = "NAME=FOLDER[@humor=4,…], NAME=https://host/v1#model, NAME=answers.jsonl or NAME=hub-org/model"


@dataclass(frozen=True)
class System:
    """One side of a comparison.

    Attributes:
        name: as users call it.
        kind: `steerable` (a checkpoint of ours), `plain` (any other chat model), `endpoint` or `stored`.
        where: folder, Hugging Face id, base URL, or file.
        model: name of the model at an endpoint.
        setting: what is asked of its attributes; empty for systems without dials.
        schema: the attributes of a steerable checkpoint.
        strengths: how strongly its dials count that are turned away from their default, as it says itself.
    """

    name: str
    kind: Kind
    where: str
    model: str = ""
    setting: Mapping[str, Value] | None = None
    schema: AttributeSchema | None = None
    strengths: Mapping[str, float] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """Where it is, without a user name or password in an address."""
        return re.sub(r"^(https?://)[^/@]*@", r"\1", self.where) if self.kind == "endpoint" else self.where


@dataclass(frozen=True)
class ComparedPrompt:
    """A conversation that ends with a user turn.

    Attributes:
        id: what stored answers refer to.
        category: of a benchmark question, such as `math`; chooses a judge's prompt.
        seed: of the answers' sampling, the same for every system.
        setting: what is asked of the attributes here; None: the system's own setting.
    """

    id: str
    messages: tuple[Message, ...]
    category: str
    seed: int
    setting: Mapping[str, Value] | None = None

    def question(self) -> BenchmarkQuestion:
        """Return the prompt as a judge is shown it."""
        return BenchmarkQuestion.asked(self.id, self.messages, self.category)


@dataclass(frozen=True)
class SystemAnswer:
    """What a system said to a prompt.

    Attributes:
        text: the answer, possibly empty; None where there is none.
        num_tokens: its length in the system's own tokens, where known.
        finished: False where it was cut off at the longest length; None where not known.
        problem: why there is no answer.
    """

    text: str | None
    num_tokens: int | None = None
    finished: bool | None = None
    problem: str = ""


def parse_systems(texts: Sequence[str]) -> tuple[System, ...]:
    """Read the systems of a command line."""
    systems = tuple(parse_system(text) for text in texts)
    require_distinct_names((system.name for system in systems), "systems", "give each its own name: NAME=…")
    if len(systems) < 2:
        raise UserError(f"a comparison needs at least two systems, got {len(systems)}; write {_FORMS}")
    return systems


def parse_system(text: str) -> System:
    """Read one system, `NAME=WHERE`."""
    name, equals, where = text.partition("=")
    if not equals or not where:
        raise UserError(f"system {text!r} is not of the form NAME=WHERE; write {_FORMS}")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise UserError(f"system name {name!r} may hold letters, digits and _ . - only")
    setting_text = ""
    match = _SETTING.match(where)
    if match and not Path(where).exists():
        where, setting_text = match["where"], match["setting"]
    if where.startswith(("http://", "https://")):
        url, hash_sign, model = where.partition("#")
        if not hash_sign or not model:
            raise UserError(f"system {name!r}: an endpoint is written URL#MODEL, for example {url}#my-model")
        return System(name, "endpoint", url.rstrip("/"), model, _loose_setting(name, setting_text))
    path = Path(where)
    if path.is_dir() and (path / "steerlm.json").is_file():
        return _checkpoint(name, path, setting_text)
    if setting_text:
        raise UserError(f"system {name!r}: {where} has no dials; only steerable checkpoints and endpoints take @…")
    if path.is_file():
        return System(name, "stored", where)
    if path.is_dir() or (_HUB_ID.match(where) and path.suffix not in (".jsonl", ".gz", ".json")):
        if (path / "tokenizer_config.json").is_file():  # said now, not when it is its turn
            from steerlm.checkpoint.models import load_tokenizer

            require_template(name, where, load_tokenizer(path).chat_template is not None)
        return System(name, "plain", where)
    raise UserError(f"system {name!r}: there is no file or folder {where}; write {_FORMS}")


def require_template(name: str, where: str, has_template: bool) -> None:
    """Refuse a model that nothing can be asked of."""
    if not has_template:
        raise UserError(f"system {name!r}: {where} has no chat template, so it cannot be asked anything")


def _checkpoint(name: str, path: Path, setting_text: str) -> System:
    from steerlm.checkpoint.info import load_info

    info = load_info(path)
    if info.kind != "sft":
        raise UserError(f"system {name!r}: {path} is an attribute model; it rates answers (--scorer) and gives none")
    if not info.conditioning:
        if setting_text:
            raise UserError(f"system {name!r}: {path} was trained without attributes and has no dials to set")
        return System(name, "steerable", str(path), "", {}, info.schema)
    setting = {key: info.schema[key].parse(value) for key, value in _pairs(name, setting_text)}
    whole = info.schema.validate({**info.schema.defaults, **setting})
    return System(name, "steerable", str(path), "", whole, info.schema, info.strengths)


def _pairs(name: str, text: str) -> list[tuple[str, str]]:
    pairs = [piece.partition("=") for piece in text.split(",")] if text else []
    for key, equals, value in pairs:
        if not key or not equals or not value:
            raise UserError(f"system {name!r}: setting {text!r} is not of the form humor=4,verbosity=1")
    return [(key, value) for key, _, value in pairs]


def _loose_setting(name: str, text: str) -> dict[str, Value]:
    """A setting whose schema only the server knows: whole numbers are levels, the rest are categories."""
    return {key: int(value) if value.isdecimal() else value for key, value in _pairs(name, text)}


def read_prompts(path: Path, num_prompts: int | None, seed: int) -> tuple[ComparedPrompt, ...]:
    """Read the prompts of a comparison, of any file of prompts.

    Of questions with several turns the first is asked.
    """
    found: dict[str, AskedPrompt] = {}
    for number, prompt in enumerate(file_prompts(path)):
        key = prompt.id or f"{path.stem}/{number}"
        if key in found:
            raise UserError(f"{path}: prompt id {key!r} stands twice; answers could not be told apart")
        found[key] = prompt
    if not found:
        raise UserError(f"{path} holds no questions to ask")
    return tuple(
        ComparedPrompt(key, row.messages, row.category, prompt_seed(seed, number))
        for number, (key, row) in enumerate(drawn(list(found.items()), num_prompts, seed))
    )


def stored_answers(system: System, prompts: Sequence[ComparedPrompt]) -> list[SystemAnswer]:
    """Look a system's stored answers up by the prompts' ids."""
    stored = read_answers(Path(system.where), system.name).answers
    answers = []
    for prompt in prompts:
        turns = stored.get(prompt.id)
        if turns is None:
            answers.append(SystemAnswer(None, problem="no answer in the file"))
            continue
        answers.append(SystemAnswer(turns[0]))  # prompts have one turn to answer
    return answers
