"""The world's files: what English alone has always been, and what a second language adds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from steerlm import playground
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import PlaygroundConfig, validate
from steerlm.conversation import Conversation, write_conversations
from steerlm.errors import UserError
from steerlm.playground.generate import withheld_levels
from steerlm.playground.lexicon import ATTRIBUTES, lexicon
from steerlm.playground.pretrain import train_tokenizer
from steerlm.playground.world import build, generate, label, prompts_of

SCHEMA = AttributeSchema(tuple(Attribute(name) for name in ATTRIBUTES))
LANGUAGE = Attribute("language", "categorical", categories=("en", "de"), measure="language")
ENGLISH = PlaygroundConfig(num_prompts=100, num_held_out=20)
BOTH = PlaygroundConfig(
    num_prompts=192, num_held_out=48, languages=("en", "de"), labelled_languages=("en",), other_language_fraction=0.25
)


def made(config: PlaygroundConfig, schema: AttributeSchema) -> dict[str, Sequence[Conversation]]:
    dialogues, held_out = generate(config, seed=5)
    labelled, unlabelled = label(dialogues, config, schema, seed=5)
    return {"labelled": labelled, "unlabelled": unlabelled, "prompts": list(prompts_of(held_out, config, schema, 5))}


def test_english_alone_is_byte_for_byte_what_it_was(tmp_path: Path) -> None:
    digests = {}
    for name, records in made(ENGLISH, SCHEMA).items():
        write_conversations(tmp_path / name, records, SCHEMA)
        digests[name] = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:16]
    assert digests == {"labelled": "fd3bb6976588e4cf", "unlabelled": "ae22e33f95418f41", "prompts": "d53c2e2712ffefa7"}


def test_people_rate_only_what_they_can_read() -> None:
    files = made(BOTH, AttributeSchema((*SCHEMA, LANGUAGE)))
    rated = [record for record in files["labelled"] for i in record.assistant_turns if record.messages[i].ratings]
    assert rated
    assert {record.source for record in files["labelled"]} == {"playground-en"}
    assert not any("ü" in message.content for record in files["labelled"] for message in record.messages)
    assert {record.source for record in files["unlabelled"]} == {"playground-en", "playground-de"}
    assert not any(message.attributes for record in files["unlabelled"] for message in record.messages)
    assert [record.source for record in files["prompts"]].count("playground-de") == 24


def test_an_earlier_answer_of_a_prompt_says_its_language_where_that_is_a_dial() -> None:
    prompts = made(BOTH, AttributeSchema((*SCHEMA, LANGUAGE)))["prompts"]
    answers = [message for prompt in prompts for message in prompt.messages if message.role == "assistant"]
    assert {(message.attributes or {})["language"] for message in answers} == {"en", "de"}
    for message in answers:
        assert ((message.attributes or {})["language"] == "de") == any(
            w in message.content for w in (" und ", "ä", "ü", "ö", "ist", "Du ")
        )


def test_answers_measure_as_composed_in_whatever_language() -> None:
    dialogues, _ = generate(BOTH, seed=5)
    crossed = 0
    for dialogue in dialogues:
        messages = dialogue.messages()
        for number, turn in enumerate(dialogue.turns):
            crossed += turn.language != dialogue.topic.language
            assert playground.measure(messages[: 2 * number + 2]) == turn.levels, turn.reply
    assert 0.15 < crossed / sum(len(dialogue.turns) for dialogue in dialogues) < 0.35


def test_a_topic_withholds_the_same_levels_in_every_language() -> None:
    withheld = withheld_levels(("en", "de"), seed=1)
    for topic in lexicon("en").topics:
        assert (
            withheld[topic.name] == withheld[topic.said_in("de").name] == withheld_levels(("en",), seed=1)[topic.name]
        )


def test_letters_of_german_do_not_cut_words() -> None:
    documents = [["Grüß dich. Über das Brotbacken gibt es sicher ein gutes Buch."] * 40]
    tokenizer = train_tokenizer(documents, SCHEMA, vocab_size=1024)
    assert len(tokenizer.tokenize(" Über")) == 1


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"languages": ["en", "en"]}, "names one twice"),
        ({"labelled_languages": ["de"]}, "'de' is none of the languages en"),
        ({"languages": ["fr"]}, "languages"),
    ],
)
def test_languages_that_there_are_not(given: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        validate(PlaygroundConfig, given, "playground")


def test_further_attributes_must_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the playground's attributes are"):
        build(ENGLISH, AttributeSchema((*SCHEMA, Attribute("quality"))), tmp_path, seed=0)
