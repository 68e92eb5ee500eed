"""Training answers at the server: demonstrations in front of a conversation, and settings proposed from the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from steerlm.attributes import AttributeSchema, Value
from steerlm.conversation import Message
from steerlm.generation.demonstrations import Demonstration, Demonstrations
from steerlm.server.proposing import Proposer, fit_proposer
from tests.server.running import SCHEMA, Running, counted, running, tiny_service
from tests.server.test_locks import Spy

TRAINED = AttributeSchema(SCHEMA.attributes[:5])
JOKES, FACTS = "Tell me a joke about {}", "Explain the physics of {}"
TOPICS = [f"{a} {b}" for a in ("red", "blue", "old", "new", "wild") for b in ("cats", "rain", "tea", "wind", "bread")]


def example(prompt: str, quality: int, **values: Value) -> Demonstration:
    labels: dict[str, Value] = {"quality": quality, "toxicity": 0, "humor": 0, "verbosity": 3, "lang": "en"}
    text = f"{prompt}? {quality} {values}"
    return Demonstration(prompt, Message("assistant", text, attributes={**labels, **values}))


def examples() -> list[Demonstration]:
    """Good answers to jokes are funny and short, bad ones neither; whatever asks for facts is long."""
    found = []
    for topic in TOPICS:
        found.append(example(JOKES.format(topic), 4, humor=4, verbosity=1))
        found.append(example(JOKES.format(topic), 1, humor=0, verbosity=4))
        found.append(example(FACTS.format(topic), 4))
        found.append(example(FACTS.format(topic), 4, toxicity=4, humor=4))
    return found


@pytest.fixture(scope="module")
def shown() -> Demonstrations:
    return Demonstrations(examples(), TRAINED)


@pytest.fixture(scope="module")
def proposer(shown: Demonstrations) -> Proposer:
    return fit_proposer(shown)


def test_a_setting_follows_from_the_best_answers_to_prompts_like_it(proposer: Proposer) -> None:
    joke = proposer.propose([Message("user", "Tell me a joke about wild old tea")])
    fact = proposer.propose([Message("system", "Joke."), Message("user", "Explain the physics of wild old tea")])
    assert joke == {"quality": 4, "toxicity": 0, "humor": 4, "verbosity": 1, "lang": "en"}
    assert fact == {"quality": 4, "toxicity": 0, "humor": 0, "verbosity": 3, "lang": "en"}
    assert set(proposer.learned) == {"humor", "verbosity"}, "one language alone cannot be foretold"


def test_a_category_follows_as_well_and_noise_does_not() -> None:
    rows = []
    for i, topic in enumerate(TOPICS):
        rows.append(example(JOKES.format(topic), 4, lang="de", humor=(i * 7) % 5))
        rows.append(example(FACTS.format(topic), 4, lang="en", humor=(i * 3) % 5))
    learned = fit_proposer(Demonstrations(rows, TRAINED))
    assert "humor" not in learned.learned
    assert learned.propose([Message("user", "A joke about tea")])["lang"] == "de"
    assert learned.propose([Message("user", "The physics of tea")])["lang"] == "en"
    assert learned.propose([Message("user", "The physics of tea")])["humor"] == 0


POLICY = {
    "attributes": {"toxicity": {"fixed": 0}},
    "presets": {"loud": {"attributes": {"verbosity": 4}}},
    "limits": {"max_demonstrations": 3},
}


@pytest.fixture(scope="module")
def server(shown: Demonstrations, proposer: Proposer) -> Iterator[Running]:
    service = tiny_service(POLICY, context=2048)
    service.demonstrations, service.proposer = shown, proposer
    with running(service) as started:
        yield started


@pytest.fixture
def spy(server: Running, monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy(server)
    monkeypatch.setattr(server.local.scheduler, "submit", spy)
    return spy


def ask(server: Running, steer: dict[str, Any], prompt: str = "Tell me a joke about tea", **more: Any) -> Any:
    body = {
        "model": "tiny",
        "max_tokens": 8,
        "seed": 1,
        "messages": [{"role": "user", "content": prompt}],
        "steer": steer,
    } | more
    return httpx.post(f"{server.url}/v1/chat/completions", json=body)


def test_auto_sets_what_nobody_set(server: Running, spy: Spy) -> None:
    reply = ask(server, {"auto": True, "attributes": {"humor": 2}}).json()["steer"]
    assert reply["attributes"] == {"quality": 4, "toxicity": 0, "humor": 2, "verbosity": 1, "lang": "en"}
    assert reply["auto"] == ["quality", "toxicity", "verbosity", "lang"]
    assert spy.headers() == [[reply["attributes"]]]
    reply = ask(server, {"auto": True, "preset": "loud"}).json()["steer"]
    assert reply["attributes"]["verbosity"] == 4
    assert "verbosity" not in reply["auto"]
    assert "auto" not in ask(server, {}).json()["steer"]


def test_demonstrations_stand_in_front_with_their_headers_and_keep_the_locks(server: Running, spy: Spy) -> None:
    reply = ask(server, {"demonstrations": 3, "attributes": {"humor": 4}}, "Explain the physics of tea").json()
    assert reply["steer"]["demonstrations"] == 3
    [[*before, wanted]] = spy.headers()
    assert wanted["humor"] == 4
    assert len(before) == 3
    assert all(label["toxicity"] == 0 for label in before), "the funny facts are rude, and a lock forbids that"
    assert reply["usage"]["prompt_tokens"] > 200


def test_scores_are_of_the_conversation_without_demonstrations(server: Running, monkeypatch: Any) -> None:
    asked: list[Any] = []
    model = server.service.attribute_model
    assert model is not None
    monkeypatch.setattr(type(model), "encode", lambda self, rows: asked.extend(rows) or [[97] for _ in rows])
    reply = ask(server, {"demonstrations": 2, "return_scores": True}).json()["choices"][0]
    [turns] = asked
    assert [turn.role for turn in turns] == ["user", "assistant"]
    assert reply["steer"]["scores"]["humor"]["mean"] == counted("a")["humor"].mean


def test_a_short_context_shows_fewer(shown: Demonstrations, proposer: Proposer) -> None:
    service = tiny_service(context=512)
    service.demonstrations, service.proposer = shown, proposer
    with running(service) as started:
        reply = ask(started, {"demonstrations": 4}, "x" * 120)
        assert 0 < reply.json()["steer"]["demonstrations"] < 4
        assert ask(started, {"demonstrations": 4}, "x" * 430).json()["steer"]["demonstrations"] == 0


@pytest.mark.parametrize(
    ("steer", "where", "match"),
    [
        ({"demonstrations": 4}, "steer.demonstrations", "at most 3 here"),
        ({"demonstrations": -1}, "steer.demonstrations", "greater than or equal to 0"),
        ({"auto": "yes"}, "steer.auto", "valid boolean"),
    ],
)
def test_mistakes_are_named(server: Running, steer: dict[str, Any], where: str, match: str) -> None:
    error = ask(server, steer).json()["error"]
    assert error["param"] == where
    assert match in error["message"]


def test_without_a_file_the_error_says_how_to_give_one() -> None:
    with running(tiny_service()) as started:
        for steer in ({"auto": True}, {"demonstrations": 1}):
            reply = ask(started, steer)
            assert reply.status_code == 400
            assert "--examples" in reply.json()["error"]["message"]
        info = httpx.get(f"{started.url}/v1/attributes").json()
        assert (info["auto"], info["demonstrations"]) == (False, 0)


def test_attributes_say_what_is_there(server: Running) -> None:
    info = httpx.get(f"{server.url}/v1/attributes").json()
    assert (info["auto"], info["demonstrations"]) == (True, 3)
