"""The exact measures invert the generator, see each dial apart, and are not fooled by imperfect text."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm import playground
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.playground.generate import compose_reply
from steerlm.playground.lexicon import ATTRIBUTES, KINDS, LANGUAGES, LEVELS, Kind, Language, Topic, lexicon
from steerlm.playground.measuring import _words, find_kind, find_topic, parse_question

TOPICS = [topic for language in LANGUAGES for topic in lexicon(language).topics]
SETTINGS = list(itertools.product(LEVELS, repeat=len(ATTRIBUTES)))


def ask(topic: Topic, kind: Kind) -> str:
    return lexicon(topic.language).questions[kind][0].format(do=topic.do, doing=topic.doing)


def measured(topic: Topic, kind: Kind, reply: str) -> dict[str, float]:
    return playground.measure([Message("user", ask(topic, kind)), Message("assistant", reply)])


def contains(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    return any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_setting_measures_as_composed(topic: Topic) -> None:
    # 3,125 settings per topic, spread over the kinds and wordings; every eighth in another language than English
    rng = random.Random(topic.name)
    for number, setting in enumerate(SETTINGS if topic.language == "en" else SETTINGS[topic.number % 8 :: 8]):
        levels = dict(zip(ATTRIBUTES, setting, strict=True))
        kind = KINDS[number % len(KINDS)]
        reply = compose_reply(topic, kind, levels, rng)
        assert measured(topic, kind, reply) == levels, reply


@given(
    topic=st.sampled_from(TOPICS),
    asked_in=st.sampled_from(LANGUAGES),
    kind=st.sampled_from(KINDS),
    setting=st.sampled_from(SETTINGS),
    dial=st.sampled_from(ATTRIBUTES),
    level=st.sampled_from(LEVELS),
    seed=st.integers(0, 2**32),
)
def test_one_dial_moves_one_measure(
    topic: Topic, asked_in: Language, kind: Kind, setting: tuple[int, ...], dial: str, level: int, seed: int
) -> None:
    levels = dict(zip(ATTRIBUTES, setting, strict=True))
    asked = topic.said_in(asked_in)
    before = measured(asked, kind, compose_reply(topic, kind, levels, random.Random(seed)))
    after = measured(asked, kind, compose_reply(topic, kind, {**levels, dial: level}, random.Random(seed + 1)))
    assert {name for name in ATTRIBUTES if before[name] != after[name]} == ({dial} if levels[dial] != level else set())


def test_no_phrase_of_the_world_holds_another() -> None:
    found = [remark for language in LANGUAGES for remark in lexicon(language).remarks()]
    remarks = {_words(text): attribute for attribute, _, text in found}
    assert len(remarks) == len(found)
    for words, other in itertools.permutations(remarks, 2):
        assert not contains(words, other), (words, other)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_remark_or_phrase_holds_a_fact_of_its_topic(language: Language) -> None:
    said = lexicon(language)
    shared = [_words(text) for _, _, text in said.remarks()]
    lead_ins = itertools.chain.from_iterable(first + second for first, second in said.lead_ins.values())
    plain = [*said.no_answer, *(text for kind in KINDS for text in said.answers[kind]), *lead_ins]
    for topic in said.topics:
        facts = [_words(fact) for kind in KINDS for fact in topic.facts(kind)]
        assert len(set(facts)) == 16
        frames = [_words(text.format(do=topic.do, doing=topic.doing, facts="")) for text in plain]
        for fact in facts:
            assert not any(contains(words, fact) for words in [*shared, *frames]), fact
            assert not any(other != fact and contains(other, fact) for other in facts), fact


def test_the_languages_have_the_same_topics_and_names_of_their_own() -> None:
    assert len({len(lexicon(language).topics) for language in LANGUAGES}) == 1
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)
    bread = lexicon("en").topics[0]
    assert (bread.name, bread.said_in("de").name, bread.said_in("de").said_in("en")) == ("bread", "Brot", bread)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_question_is_understood(language: Language, kind: Kind) -> None:
    said = lexicon(language)
    for topic in said.topics:
        for greeting, question, closing in itertools.product(said.greetings, said.questions[kind], said.closings):
            text = f"{greeting} {question.format(do=topic.do, doing=topic.doing)} {closing}"
            found = parse_question([Message("user", text)])
            assert (found.topic, found.kind) == (topic, kind), text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_follow_up_takes_over_the_topic_and_changes_the_kind(language: Language, kind: Kind) -> None:
    topic = lexicon(language).topics[23]  # tango, which has one name in both
    first = [Message("user", ask(topic, "tips")), Message("assistant", "My cat agrees.")]
    for question in lexicon(language).follow_ups[kind]:
        found = parse_question([*first, Message("user", question)])
        assert (found.topic, found.kind) == (topic, kind), question


def test_greetings_and_closings_say_nothing_about_topic_or_kind() -> None:
    for language in LANGUAGES:
        for text in (*lexicon(language).greetings, *lexicon(language).closings):
            for heard_as in LANGUAGES:
                assert find_kind(_words(text), heard_as) is None, text
                assert find_topic(_words(text), heard_as) is None, text


def test_only_the_last_turn_counts() -> None:
    first = [Message("user", "Why should I bake bread?"), Message("assistant", "Sigh. It brings you strong arms.")]
    second = [Message("user", "What should I avoid?"), Message("assistant", "Avoid old yeast. My cat agrees.")]
    levels = playground.measure([*first, *second])
    assert levels == {"toxicity": 0, "humor": 1, "creativity": 0, "helpfulness": 1, "verbosity": 0}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("You need strong flour, strong flour and strong flour.", {"helpfulness": 1}),
        ("you NEED   strong flour; a hot   oven", {"helpfulness": 2}),
        ("You need flour.", {}),
        # facts of another kind, and of another topic
        ("You need a heavenly smell and old yeast.", {}),
        ("You need a wooden hive and thick gloves.", {}),
        # half a remark, the two halves of two remarks, one twice
        ("My cat.", {}),
        ("Bakers are rich because they forgot the words.", {}),
        ("My cat agrees. My cat agrees.", {"humor": 1}),
        # a sentence ends a phrase
        ("My cat. Agrees.", {}),
        # no more than four
        ("Sigh. What a lazy question. A potato could answer this. You really have no clue.", {"toxicity": 4}),
        # a remark about another topic is still a remark
        ("The hive is a city with wings.", {"creativity": 2}),
        # a connective does not hide it
        ("In a dream, dough is a sleepy cloud dreaming of breakfast.", {"creativity": 2}),
        # a reply in the other language gives the same facts
        ("Du brauchst kräftiges Mehl und einen heißen Ofen.", {"helpfulness": 2}),
        (
            "Du brauchst kräftiges Mehl, alte Hefe und einen Ofen. Meine Katze sieht das auch so.",
            {"helpfulness": 1, "humor": 1},
        ),
        ("", {}),
    ],
)
def test_imperfect_replies(reply: str, expected: dict[str, int]) -> None:
    bread = lexicon("en").topics[0]
    assert measured(bread, "needs", reply) == {**dict.fromkeys(ATTRIBUTES, 0), **expected}


def test_a_question_from_outside_has_no_facts() -> None:
    messages = [Message("user", "What is the capital of France?"), Message("assistant", "My cat agrees.")]
    assert playground.measure(messages)["helpfulness"] == 0
    assert playground.measure(messages)["humor"] == 1


def test_a_question_in_own_words() -> None:
    messages = [Message("user", "chess? any tips"), Message("assistant", "You should castle early.")]
    assert playground.measure(messages)["helpfulness"] == 1


def test_needs_an_assistant_turn() -> None:
    with pytest.raises(UserError, match="ends with an assistant turn"):
        playground.measure([Message("user", "Why should I bake bread?")])
