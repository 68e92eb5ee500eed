"""The chat: dials from flags and commands, history, comparison, scores, what is printed, and Ctrl-C."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steerlm.__main__ import main
from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.chat.dials import ChatDials, DialSetting
from steerlm.chat.session import Session
from steerlm.checkpoint.models import CheckpointInfo, load_sequence_classifier, save_model
from steerlm.conversation import Conversation, Message, Score, write_conversations
from steerlm.errors import UserError
from steerlm.generation.engine import LocalEngine, Request, Sample, Sampling
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

SCHEMA = AttributeSchema(
    (
        Attribute("quality", best="max"),
        Attribute("humor", description="How funny it is."),
        Attribute("lang", "categorical", categories=("en", "de")),
        Attribute("not_appropriate", best="min"),
        Attribute("violence", best="min"),
    )
)


def statistics(**counts: dict[str, int]) -> dict[str, Any]:
    rows = {name: {"n": sum(counts.get(name, {}).values()), "histogram": counts.get(name, {})} for name in SCHEMA.names}
    return {"attributes": rows}


INFO = CheckpointInfo(
    "sft",
    SCHEMA,
    "steerlm",
    label_statistics=statistics(
        quality={"0": 2, "4": 3}, humor={"0": 3, "3": 1}, lang={"en": 1, "de": 2}, not_appropriate={"0": 3, "1": 1}
    ),
)
DEFAULTS: dict[str, Value] = {"quality": 4, "humor": 0, "lang": "en", "not_appropriate": 0}


class FakeEngine:
    """Answers with what it was asked; remembers every request; has room for so many characters of conversation."""

    schema = SCHEMA

    def __init__(self, context: int = 10_000) -> None:
        self.requests: list[Request] = []
        self.context = context
        self.script: list[Sequence[str | type[BaseException]]] = []

    def room(self, request: Request) -> int:
        return self.context - sum(len(message.content) for message in request.messages)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        self.requests += requests
        return [
            [Sample(f"humor {(r.attributes or {}).get('humor', 'off')}: [bold]ha[/bold]\x1b[2J", 5, True)]
            for r in requests
        ]

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str]:
        self.requests.append(request)
        if self.room(request) < 1:
            raise UserError("the prompt has too many tokens")
        pieces = self.script.pop(0) if self.script else ["You said ", request.messages[-1].content, "."]
        for piece in pieces:
            if not isinstance(piece, str):
                raise piece
            yield piece


class Chat:
    """A session on a fake engine; `say` returns what it prints."""

    def __init__(self, context: int = 10_000, terminal: bool = False, **options: Any) -> None:
        self.engine = FakeEngine(context)
        self.out = io.StringIO()
        console = Console(file=self.out, force_terminal=terminal, highlight=False, soft_wrap=True, width=80)
        notes = Console(file=self.out, force_terminal=terminal, highlight=False, soft_wrap=True, width=80)
        setting = DialSetting(DEFAULTS)
        self.session = Session(
            console, self.engine, ChatDials.of(INFO), setting, Sampling(100), seed=7, _notes=notes, **options
        )

    def say(self, *lines: str) -> str:
        start = len(self.out.getvalue())
        for line in lines:
            assert self.session.handle(line)
        return self.out.getvalue()[start:]


def test_flags_are_the_trained_attributes() -> None:
    dials = ChatDials.of(INFO)
    assert dials.defaults == DialSetting(DEFAULTS)
    assert dials.parse_flags(["--humor", "3", "--lang=de", "--not-appropriate", "1"]) == {
        "humor": 3,
        "lang": "de",
        "not_appropriate": 1,
    }
    for arguments, message in (
        (["--humour", "3"], "no attribute 'humour': did you mean 'humor'"),
        (
            ["--violence", "1"],
            "'violence' was not trained in this model; trained: quality, humor, lang, not_appropriate",
        ),
        (["--humor", "7"], "humor: 7 is not an integer from 0 to 4"),
        (["--humor", "funny"], "humor: 'funny' is not an integer from 0 to 4"),
        (["--lang", "fr"], "lang: 'fr' is not one of en, de"),
        (["humor", "3"], "unexpected argument 'humor'"),
        (["--quality", "4", "--humor"], "--humor needs a value"),
    ):
        with pytest.raises(UserError, match=message):
            dials.parse_flags(arguments)


def test_a_baseline_has_no_dials() -> None:
    plain = CheckpointInfo("sft", SCHEMA, "steerlm", conditioning=False, label_statistics=INFO.label_statistics)
    assert ChatDials.of(plain).defaults == DialSetting({})
    with pytest.raises(UserError, match="trained without attributes"):
        ChatDials.of(plain).parse_flags(["--humor", "3"])


def test_history_keeps_the_settings_of_each_turn() -> None:
    chat = Chat(system="Be kind.")
    assert chat.say("Hello", "/set humor 3", "And now?") == (
        "You said Hello.\nquality:4,humor:3,lang:en,not_appropriate:0\nYou said And now?.\n"
    )
    first, second = chat.engine.requests
    assert first.messages == (Message("system", "Be kind."), Message("user", "Hello"))
    assert first.attributes == DEFAULTS
    assert second.messages == (
        Message("system", "Be kind."),
        Message("user", "Hello"),
        Message("assistant", "You said Hello.", attributes=DEFAULTS),
        Message("user", "And now?"),
    )
    assert second.attributes == {**DEFAULTS, "humor": 3}
    assert (first.seed, second.seed) == (7, 8)
    chat.say("/reset", "/system", "Again")
    assert chat.engine.requests[-1].messages == (Message("user", "Again"),)
    chat.say("/system Be brief.", "More")
    assert chat.engine.requests[-1].messages[0] == Message("system", "Be brief.")


def test_set() -> None:
    chat = Chat()
    shown = chat.say("/set")
    assert "How funny it is." in shown
    assert "0..4" in shown
    assert "en de" in shown
    assert [line.split()[:4] for line in shown.splitlines() if line.startswith("violence")] == [
        ["violence", "not", "trained", "1"]
    ]
    assert "occurs in no training label" in chat.say("/set humor 2")
    assert "occurs" not in chat.say("/set humor=3")
    for line, message in (
        ("/set humor 5", "humor: 5 is not an integer from 0 to 4"),
        ("/set violence 1", "trained: quality, humor, lang, not_appropriate"),
        ("/set humor", "humor: '' is not an integer"),
        ("/set humor 1 2", "a dial takes one value"),
        ("/sett humor 1", "unknown command '/sett': did you mean '/set'"),
    ):
        shown = chat.say(line)
        assert shown.startswith("error: ")
        assert message in shown
    assert chat.session.setting.values["humor"] == 3
    assert "/compare" in chat.say("/help")


def test_help_and_mistakes_name_the_dials_of_this_model() -> None:
    own = AttributeSchema((Attribute("lang", "categorical", categories=("en", "de")), Attribute("length", maximum=2)))
    rows = {name: {"n": 1, "histogram": {"0": 1}} for name in own.names}
    chat = Chat()
    chat.session.dials = ChatDials.of(CheckpointInfo("sft", own, "steerlm", label_statistics={"attributes": rows}))
    told = chat.say("/help")
    assert "humor" not in told
    for words in ("/set length 1.5, or /length 1.5 ", "/length off ", "/strength length 2 ", "/compare length 0 2 [Q"):
        assert words in told
    assert "say it like /compare length 0 2" in chat.say("/compare length 0")
    unknown = chat.say("/reading 2")
    assert "unknown command '/reading'" in unknown
    assert "/lang, /length" in unknown
    chat.session.dials = ChatDials.of(dataclasses.replace(INFO, conditioning=False))
    assert "/set  " in chat.say("/help")


def test_a_mistaken_flag_is_told_the_dials_and_not_the_options() -> None:
    dials = ChatDials.of(INFO)
    with pytest.raises(UserError) as error:
        dials.parse_flags(["--readng-grade", "2"], ["temperature", "help"])
    assert str(error.value) == (
        "this model has no attribute 'readng_grade': its dials: quality, humor, lang, not_appropriate"
    )
    with pytest.raises(UserError, match="did you mean 'temperature'"):
        dials.parse_flags(["--temprature", "2"], ["temperature", "help"])
    lone = ChatDials(SCHEMA, ("lang",), {"lang": {"en": 1}})
    with pytest.raises(UserError, match="preset 'teacher': this model has no presets; set its dials one by one"):
        lone.preset("teacher")


def test_a_dial_can_be_left_out() -> None:
    assert ChatDials.of(INFO).parse_flags(["--humor", "none", "--lang=off"]) == {"humor": None, "lang": None}
    chat = Chat()
    assert chat.say("/humor off") == "quality:4,lang:en,not_appropriate:0\n"
    chat.say("Hi", "/not-appropriate off", "/set lang none", "More", "/humor 3")
    first, second = chat.engine.requests
    assert first.attributes == {"quality": 4, "lang": "en", "not_appropriate": 0}
    assert second.attributes == {"quality": 4}
    assert second.messages[1].attributes == first.attributes
    assert list(chat.session.setting.values) == ["quality", "humor"], "in the schema's order"
    assert [line.split()[:2] for line in chat.say("/set").splitlines() if line.startswith("lang")] == [["lang", "off"]]
    assert "(every dial is left out)" in chat.say("/humor off", "/quality off")


def test_values_between_levels_and_strengths_reach_the_engine() -> None:
    chat = Chat()
    assert "occurs in no training label" in chat.say("/humor 2.5"), "level 2 was never seen"
    assert "(strength 2)" in chat.say("/strength quality 2")
    chat.say("Hi", "/humor 3.0", "More")
    first, second = chat.engine.requests
    assert (first.attributes or {})["humor"] == 2.5
    assert first.guidance == {"quality": 2.0}
    assert second.messages[1].attributes == {**DEFAULTS, "humor": 3}, "a turn of the history has whole levels"
    value = chat.session.setting.values["humor"]
    assert (value, type(value)) == (3, int)
    for line, message in (
        ("/humor 4.5", "humor: 4.5 is not a number from 0 to 4"),
        ("/humor 1e1", "humor: '1e1' is not an integer"),
        ("/lang 0.5", "lang: '0.5' is not one of en, de"),
        ("/strength humor", "a number from 0 to 10"),
        ("/strength humor -1", "a number from 0 to 10"),
        ("/strength humour 1", "did you mean 'humor'"),
        ("/violence 1", "was not trained in this model"),
    ):
        assert message in chat.say(line)
    chat.say("/strength quality 1", "Again")
    assert not any(strength != 1 for strength in (chat.engine.requests[-1].guidance or {}).values())


def test_more_prompts_than_can_be_mixed_are_refused_before_the_next_question() -> None:
    schema = AttributeSchema(tuple(Attribute(f"a{i}") for i in range(20)))
    rows = {name: {"n": 1, "histogram": {"0": 1}} for name in schema.names}
    info = CheckpointInfo("sft", schema, "steerlm", label_statistics={"attributes": rows})
    dials = ChatDials.of(info)
    with pytest.raises(UserError, match="at most 16 are possible"):
        dials.turned(dials.defaults, {f"a{i}": 0.5 + i / 100 for i in range(20)}, {})


def test_the_models_own_strengths_count_for_dials_that_are_turned() -> None:
    chat = Chat()
    chat.session.dials = dataclasses.replace(chat.session.dials, strengths={"humor": 3.0, "quality": 2.0})
    chat.say("/humor 4", "Hello")
    assert chat.engine.requests[-1].guidance == {"humor": 3.0}
    assert re.search(r"humor +4 +3 ", chat.say("/set"))
    chat.say("/strength humor 1.5", "Hello")
    assert chat.engine.requests[-1].guidance == {"humor": 1.5}


def test_presets() -> None:
    schema = AttributeSchema((Attribute("helpfulness", best="max"), Attribute("verbosity"), Attribute("humor")))
    rows = {name: {"n": 1, "histogram": {"0": 1, "4": 1}} for name in schema.names}
    dials = ChatDials.of(CheckpointInfo("sft", schema, "steerlm", label_statistics={"attributes": rows}))
    chat = Chat()
    chat.session.dials, chat.session.setting = dials, dials.defaults
    names = chat.say("/preset").strip().split(", ")
    assert names == list(dials.presets())
    chat.say("/humor 3", f"/preset {names[0]}")
    assert chat.session.setting.values == {**dials.defaults.values, **dials.preset(names[0]).values}
    assert "no preset 'nope'" in chat.say("/preset nope")


def test_compare() -> None:
    chat = Chat()
    assert "there is no question yet" in chat.say("/compare humor 0 4")
    shown = chat.say("/compare humor 0 4 3 Why  so serious?")
    assert shown == "".join(f"[humor {level}]\nhumor {level}: [bold]ha[/bold][2J\n" for level in (0, 4, 3))
    requests = chat.engine.requests[-3:]
    assert {request.messages for request in requests} == {(Message("user", "Why  so serious?"),)}
    assert [request.attributes for request in requests] == [{**DEFAULTS, "humor": level} for level in (0, 4, 3)]
    assert len({request.seed for request in requests}) == 1
    assert chat.session.history == []
    chat.say("One", "Two", "/compare humor 0 4")
    assert [m.content for m in chat.engine.requests[-1].messages] == ["One", "You said One.", "Two"]
    assert len(chat.session.history) == 4
    assert chat.session.setting == DialSetting(DEFAULTS)
    chat.say("/compare humor off 2.5 Why?")
    assert [request.attributes for request in chat.engine.requests[-2:]] == [
        {name: value for name, value in DEFAULTS.items() if name != "humor"},
        {**DEFAULTS, "humor": 2.5},
    ]
    for line, message in (
        ("/compare", "no attribute ''"),
        ("/compare humor", "humor: ''"),
        ("/compare humor 0", "two values or more"),
        ("/compare humor 0 9", "humor: 9"),
        ("/compare humour 0 4", "did you mean 'humor'"),
    ):
        assert message in chat.say(line)


def test_compare_on_a_terminal_stands_side_by_side() -> None:
    shown = Chat(terminal=True).say("/compare humor 0 4 Why?")
    assert any("humor 0: [bold]ha[/bold]" in line and "humor 4: [bold]ha[/bold]" in line for line in shown.splitlines())
    assert "\x1b[2J" not in shown, "the model's control characters reach the terminal"


def test_what_a_model_says_is_printed_as_it_is() -> None:
    chat = Chat(terminal=True)
    chat.engine.script = [["[red]no", " markup[/red] :smile:", " \x1b[31m\x9b2J\r\x07", "tab\t\nline"]]
    assert chat.say("Hi") == "[red]no markup[/red] :smile: [31m2Jtab\t\nline\n"
    assert chat.session.history[-1].content.endswith("\x1b[31m\x9b2J\r\x07tab\t\nline")


def test_interrupt_ends_the_answer_and_not_the_chat() -> None:
    chat = Chat()
    chat.engine.script = [["Half an ", KeyboardInterrupt], [KeyboardInterrupt]]
    assert chat.say("Hi") == "Half an \n(stopped)\n"
    assert [m.content for m in chat.session.history] == ["Hi", "Half an "]
    assert "(stopped)" in chat.say("Hi again")
    assert len(chat.session.history) == 2, "an answer without words is not remembered"
    assert chat.say("Still there?") == "You said Still there?.\n"


def test_oldest_exchanges_give_way() -> None:
    chat = Chat(context=160)
    assert "forgotten" not in chat.say("a" * 20, "b" * 20)
    assert "(the context is full: the oldest 2 messages are forgotten)" in chat.say("c" * 20)
    assert [m.content[:1] for m in chat.engine.requests[-1].messages] == ["b", "Y", "c"]
    assert len(chat.session.history) == 4
    assert "error: the prompt has too many tokens" in chat.say("d" * 200)
    assert chat.say("e").endswith("You said e.\n")


def test_quit() -> None:
    assert not Chat().session.handle("/quit")
    assert Chat().say("", "   ".strip()) == ""


def test_scores_need_a_model_and_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--attribute-model PATH" in Chat().say("Hi", "/scores")
    chat = Chat(attribute_model=Path("scorer"))
    assert "there is no answer yet" in chat.say("/scores")

    class Scorer:
        schema = SCHEMA

        def score(self, conversations: Any) -> Any:
            assert [m.content for m in conversations[0]] == ["Hi", "You said Hi."]
            scores = {name: Score(1.234, 0.5) for name in SCHEMA.names}
            return [scores | {"lang": Score(0, 0, {"en": 0.1, "de": 0.9})}]

        def values(self, scores: Any) -> dict[str, Value]:
            return {**dict.fromkeys(SCHEMA.names, 1), "lang": "de"}

    monkeypatch.setattr("steerlm.scorers.attribute_models.load_attribute_model", lambda path: Scorer())
    lines = chat.say("Hi", "/set humor 3", "/scores").splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["humor"] == ["0", "1.23", "0.50"], "the setting the answer was written with"
    assert rows["lang"] == ["en", "de"]
    assert rows["violence"] == ["1.23", "0.50"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny steerable model and a tiny attribute model."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = byte_tokenizer(SCHEMA)
    model = random_model(tiny_llama_config(len(tokenizer)))
    save_model(folder / "model", model, tokenizer, INFO, "card")
    scorer = load_sequence_classifier(folder / "model", SCHEMA)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    info = CheckpointInfo("regression", SCHEMA, "steerlm", provenance={"max_length": 512})
    save_model(folder / "scorer", scorer, tokenizer, info, "card")
    return folder


def test_piped_through_the_command_line(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [
        "chat",
        f"{checkpoints / 'model'}@quality=4",
        "--humor",
        "3",
        "--max-new-tokens",
        "30",
        "--system",
        "Be kind.",
    ]
    command += ["--attribute-model", str(checkpoints / "scorer")]

    def run() -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n/scores\n/sett\n/compare humor 0 4\n/quit\nnever asked\n"))
        assert main(command) == 0
        return capfd.readouterr()

    out, errors = run()
    assert (out, errors) == run(), "seeded"
    assert "error: unknown command '/sett'" in errors
    assert "asked for" in out
    assert "[humor 0]" in out
    assert "[humor 4]" in out
    assert not any(ord(c) < 32 and c not in "\n\t" for c in out + errors)
    assert out.startswith(_first_answer(checkpoints, {**DEFAULTS, "humor": 3}))


def test_what_a_preset_sets_counts_as_turned(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[Session] = []
    monkeypatch.setattr("steerlm.chat.session.chat", lambda session, greeting: sessions.append(session))
    assert main(["chat", str(checkpoints / "model"), "--preset", "teacher", "--lang", "de"]) == 0
    assert sessions[0].turned == {"quality", "humor", "lang"}


def _first_answer(checkpoints: Path, settings: dict[str, Value]) -> str:
    tokenizer = byte_tokenizer(SCHEMA)
    engine = LocalEngine(random_model(tiny_llama_config(len(tokenizer))), tokenizer, SCHEMA)
    request = Request((Message("system", "Be kind."), Message("user", "Hi")), settings)
    [[sample]] = engine.generate([request], Sampling(30, 0.7, 50))
    text = "".join(c for c in sample.text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
    assert len(text) > 5
    return text


def test_mistakes_before_the_chat(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([str(checkpoints / "model"), "--humour", "3"], "no attribute 'humour'"),
        ([str(checkpoints / "absent")], "no such checkpoint folder"),
        ([str(checkpoints / "model"), "--temperature", "-1"], "temperature"),
        ([str(checkpoints / "model"), "--attribute-model", str(checkpoints / "model")], "not an attribute model"),
    ):
        assert main(["chat", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_training_answers_are_shown_and_propose_settings(tmp_path: Path) -> None:
    def record(kind: str, number: int) -> Conversation:
        joke = kind == "joke"
        labels: dict[str, Value] = {"quality": 4, "humor": 3 if joke else 0, "lang": "en", "not_appropriate": 0}
        prompt = f"Tell me a {kind} of number {number}"
        return Conversation(prompt, (Message("user", prompt), Message("assistant", f"{kind} {number}.", labels)))

    path = tmp_path / "train.jsonl"
    write_conversations(path, [record(kind, i) for i in range(40) for kind in ("joke", "fact")], SCHEMA)
    chat = Chat(examples=path)
    said = chat.say("/auto on", "Tell me a joke of tea", "/humor 1", "Tell me a joke of rain", "Tell me a fact of tea")
    assert "(auto: quality 4, humor 3, lang en, not_appropriate 0)\n" in said
    asked = [(request.attributes or {})["humor"] for request in chat.engine.requests]
    assert asked == [3, 1, 1], "what somebody turned stays"
    chat = Chat(examples=path)
    chat.say("/auto on", "/preset teacher", "Tell me a joke of snow")
    assert (chat.engine.requests[-1].attributes or {})["humor"] == 0, "so does what a preset sets"
    chat.say("/auto off", "/reset", "/humor 0", "/demonstrations 2", "Tell me a fact of tea")
    shown = chat.engine.requests[-1].messages
    assert [message.role for message in shown] == ["user", "assistant"] * 2 + ["user"]
    assert all((m.attributes or {})["humor"] == 0 for m in shown if m.role == "assistant")
    chat.say("And another?")
    assert len(chat.engine.requests[-1].messages) == 4 + 3, "they are no part of the conversation"
    for line, message in (
        ("/auto perhaps", "/auto on or /auto off"),
        ("/demonstrations many", "a number from 0 to 9"),
    ):
        assert message in chat.say(line)
    for line in ("/auto on", "/demonstrations 1"):
        assert "start the chat with --examples" in Chat().say(line)


def test_demonstrations_that_do_not_fit_are_left_out_and_the_history_stays(tmp_path: Path) -> None:
    labels: dict[str, Value] = {"quality": 4, "humor": 0}
    turns = (Message("user", "Why?" * 20), Message("assistant", "Because." * 10, labels))
    write_conversations(tmp_path / "train.jsonl", [Conversation("a", turns)], SCHEMA)
    chat = Chat(context=220, examples=tmp_path / "train.jsonl", num_demonstrations=1)
    chat.say("Hello", "And now?")
    assert [len(request.messages) for request in chat.engine.requests] == [1, 3]
    assert len(chat.session.history) == 4
