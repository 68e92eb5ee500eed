"""Guidance: which prompts are mixed with which weights, and what comes out of the loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerlm.attributes import OASST, Attribute, AttributeSchema
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.engine import LocalEngine, Request, Sampling
from steerlm.generation.guidance import branches
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

TOKENIZER = byte_tokenizer(OASST)
ENCODER = ConversationEncoder(TOKENIZER, OASST)
LANGUAGES = AttributeSchema((Attribute("humor"), Attribute("lang", "categorical", categories=("en", "de"))))


def test_strength_one_is_one_ordinary_prompt() -> None:
    wishes = {"quality": 4, "humor": 2}
    for strengths in ({}, {"humor": 1.0}, {"humor": 1, "quality": 1, "toxicity": 7}):
        assert branches(OASST, wishes, strengths) == [(wishes, 1.0)]


def test_strength_zero_is_the_prompt_without() -> None:
    wishes = {"quality": 4, "humor": 2}
    assert branches(OASST, wishes, {"humor": 0}) == [({"quality": 4}, 1.0)]
    assert branches(OASST, wishes, {"humor": 0, "quality": 0}) == [({}, 1.0)]
    assert branches(OASST, {}, {}) == [({}, 1.0)]


def test_the_formula() -> None:
    wishes = {"quality": 4, "toxicity": 0, "humor": 2, "creativity": 3}
    mixture = branches(OASST, wishes, {"humor": 2.0, "creativity": -0.5, "toxicity": 2.0})
    assert mixture == [
        ({"quality": 4}, 1 - 2.0 + 0.5),
        ({"quality": 4, "toxicity": 0, "humor": 2}, 2.0),
        ({"quality": 4, "creativity": 3}, -0.5),
    ]


def test_between_levels() -> None:
    assert branches(OASST, {"humor": 2.5}, {}) == [({"humor": 2}, 0.5), ({"humor": 3}, 0.5)]
    assert branches(OASST, {"humor": 3.0}, {}) == [({"humor": 3}, 1.0)]
    assert branches(OASST, {"humor": 2.25, "quality": 0.75}, {}) == [
        ({"quality": 0, "humor": 2}, 0.25),
        ({"quality": 1, "humor": 2}, 0.5),
        ({"quality": 1, "humor": 3}, 0.25),
    ]


@given(
    st.dictionaries(st.sampled_from(OASST.names), st.integers(0, 400).map(lambda n: n / 100)),
    st.dictionaries(st.sampled_from(OASST.names), st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0])),
)
def test_weights_sum_to_one_and_means_are_the_wish(wishes: dict[str, float], strengths: dict[str, float]) -> None:
    mixture = branches(OASST, wishes, strengths)
    assert sum(branch.weight for branch in mixture) == pytest.approx(1)
    plain = branches(OASST, wishes, {})
    assert all(branch.weight > 0 for branch in plain)
    for name, wish in wishes.items():
        mean = sum(float(branch.attributes[name]) * branch.weight for branch in plain)
        assert mean == pytest.approx(wish)


@pytest.mark.parametrize(
    ("wishes", "strengths", "message"),
    [
        ({"humor": 4.5}, {}, "humor: 4.5 is not a number from 0 to 4"),
        ({"humor": float("nan")}, {}, "humor: nan is not a finite number"),
        ({"humour": 1}, {}, "did you mean 'humor'"),
        ({"humor": True}, {}, "humor: True is not an integer from 0 to 4"),
        ({"humor": 1}, {"humour": 2.0}, "did you mean 'humor'"),
        ({"humor": 1}, {"humor": float("inf")}, "guidance: the strength of humor must be a finite number"),
    ],
)
def test_mistakes(wishes: dict[str, object], strengths: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        branches(OASST, wishes, strengths)


def test_categories_have_nothing_between() -> None:
    assert branches(LANGUAGES, {"lang": "de", "humor": 0.5}, {}) == [
        ({"humor": 0, "lang": "de"}, 0.5),
        ({"humor": 1, "lang": "de"}, 0.5),
    ]
    with pytest.raises(UserError, match=r"lang: 0\.5 is not one of en, de"):
        branches(LANGUAGES, {"lang": 0.5}, {})


def test_too_many_branches() -> None:
    schema = AttributeSchema(tuple(Attribute(f"a{i}") for i in range(8)))
    wishes = {name: 0.1 + i / 10 for i, name in enumerate(schema.names)}
    with pytest.raises(UserError, match=r"mixes .* prompts, at most 16"):
        branches(schema, wishes, {"a0": 2.0, "a1": 3.0})


@pytest.mark.parametrize(
    ("wishes", "strengths"),
    [
        ({"quality": 4, "humor": 3}, {"humor": 2.5}),
        ({"quality": 4, "humor": 3}, {"humor": 2.5, "quality": -1.0}),
        ({"quality": 4, "humor": 3.3}, {"humor": 1.5}),
        ({"quality": 1.5, "humor": 3.3}, {}),
    ],
)
def test_the_loop_follows_the_mixed_logits(wishes: dict[str, float], strengths: dict[str, float]) -> None:
    """Against a reference that computes every branch by itself, whole sequence after whole sequence."""
    model = random_model(tiny_llama_config(len(TOKENIZER)), 5, 0.25)
    messages = (Message("user", "Tell me a joke."),)
    expected: list[int] = []
    with torch.no_grad():
        for _ in range(25):
            mixed = torch.zeros(len(TOKENIZER))
            for attributes, weight in branches(OASST, wishes, strengths):
                ids = [*ENCODER.prompt(messages, attributes), *expected]
                mixed += weight * model(torch.tensor([ids])).logits[0, -1]
            expected.append(int(mixed.argmax()))
            if expected[-1] in ENCODER.control_ids:
                break
    engine = LocalEngine(model, TOKENIZER, OASST, batch_size=7)
    # beside requests with other numbers of prompts, and more of them than fit at once
    wanted = Request(messages, wishes, guidance=strengths)
    others = [Request((Message("user", text),), {"quality": 4}) for text in ("Hi", "Why?", "Who are you?")]
    samples = engine.generate([*others, wanted, Request(messages, wishes), wanted], Sampling(25, temperature=0))
    for i in (3, 5):
        assert samples[i][0].text == ENCODER.decode(expected)
        assert samples[i][0].num_tokens == len(expected)
    plain = [engine.generate([request], Sampling(25, temperature=0))[0] for request in others]
    assert samples[:3] == plain


def test_guidance_changes_the_text_and_its_ends_are_exact() -> None:
    model = random_model(tiny_llama_config(len(TOKENIZER)), 5, 0.25)
    engine = LocalEngine(model, TOKENIZER, OASST)
    messages = (Message("user", "Tell me a joke."),)
    sampling = Sampling(30, temperature=0.9)

    def texts(wishes: dict[str, int], strength: float) -> list[str]:
        guidance = dict.fromkeys(OASST.names, strength)
        [samples] = engine.generate([Request(messages, wishes, 3, 1, guidance)], sampling)
        return [sample.text for sample in samples]

    wishes = {"quality": 4, "humor": 3}
    [ordinary] = engine.generate([Request(messages, wishes, 3, 1)], sampling)
    [unconditional] = engine.generate([Request(messages, {}, 3, 1)], sampling)
    assert texts(wishes, 1.0) == [sample.text for sample in ordinary]
    assert texts(wishes, 0.0) == [sample.text for sample in unconditional]
    strengths = [tuple(texts(wishes, strength)) for strength in (0.0, 0.5, 1.0, 2.0)]
    assert all(a != b for a, b in itertools.combinations(strengths, 2))
