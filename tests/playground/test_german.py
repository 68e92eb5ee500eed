"""The playground's German is a speaker's: a grammar that knows nothing of the generator has no objection to it."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from steerlm.playground.generate import compose_reply
from steerlm.playground.lexicon import ATTRIBUTES, KINDS, LEVELS, lexicon
from tests.playground.german import objections

GERMAN = lexicon("de")


def replies(per_topic: int) -> list[str]:
    found = []
    for topic in GERMAN.topics:
        rng = random.Random(topic.name)
        for number in range(per_topic):
            levels = {name: rng.choice(LEVELS) for name in ATTRIBUTES}
            found.append(compose_reply(topic, KINDS[number % len(KINDS)], levels, rng))
    return found


def test_a_speaker_has_no_objection_to_the_replies() -> None:
    found = replies(per_topic=50)
    assert len(set(itertools.chain.from_iterable(re.split(r"(?<=[.!?:]) ", reply) for reply in found))) > 1000
    assert [problem for reply in found for problem in objections(reply)] == []


def test_every_phrase_is_seen_by_the_grammar() -> None:
    """Each fact, remark and frame, and not only those that chance puts into a reply."""
    texts = [text if text[-1] in ".!?" else f"{text} Danke." for text in (*GERMAN.greetings[1:], *GERMAN.closings[1:])]
    texts += itertools.chain(*GERMAN.follow_ups.values())
    texts += [text for _, _, text in GERMAN.remarks()]
    for topic in GERMAN.topics:
        frames = [*GERMAN.no_answer, *itertools.chain(*GERMAN.questions.values())]
        texts += [frame.format(do=topic.do, doing=topic.doing) for frame in frames]
        for kind in KINDS:
            facts = topic.facts(kind)
            for number, frame in enumerate(GERMAN.answers[kind]):
                listed = GERMAN.lists[number % 4].format(*facts[number % 4 :], *facts)
                texts.append(frame.format(do=topic.do, doing=topic.doing, facts=listed))
    assert [problem for text in texts for problem in objections(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        # gender, case, endings
        "Du brauchst ein heißer Ofen.",
        "Du brauchst einen heiße Ofen.",
        "Du brauchst kräftige Mehl.",
        "Du brauchst der Ofen.",
        "Meine Ofen ist eine kleine Sonne.",
        "Der Ofen ist ein kleine Sonne.",
        "Jede Bohne ist eine Koffer voller Reisen.",
        "Seit die ersten Bauernhöfen leben sie bei den Menschen.",
        "Du solltest das Mehl abwiegen und der Teig lange kneten.",
        # what a preposition or a verb governs
        "Frag jemanden, der sich mit das Brotbacken auskennt.",
        "Man macht es für stille Freude und ein ruhiger Abend.",
        "Achte beim Brotbacken auf alter Hefe.",
        # the place of the verb
        "Wenn du Brot backen willst, du brauchst frische Hefe.",
        "Wenn du willst Brot backen, brauchst du frische Hefe.",
        "Vielleicht du brauchst frische Hefe.",
        "Über das Brotbacken ich kann wenig sagen.",
        "In der Botanik die Tomate gilt als Beere.",
        "Mein Hund lernte das Warten, und dann er brachte es mir bei.",
        "Was ich brauche für das Zelten?",
        "Warum ich sollte Brot backen?",
        "Eine Tasse gute dauert etwa vier Minuten.",
        # capitals, spelling, doubled words, spaces
        "Du brauchst frische hefe.",
        "Du brauchst Frische Hefe.",
        "Beim backen solltest du den Teig lange kneten.",
        "Du brauchst frishe Hefe.",
        "du brauchst frische Hefe.",
        "Du brauchst brauchst frische Hefe.",
        "Du brauchst  frische Hefe.",
        "Du brauchst frische Hefe",
    ],
)
def test_the_grammar_objects(text: str) -> None:
    assert objections(text)


@pytest.mark.parametrize(("right", "wrong"), [("einen", "eine"), ("eine", "einen"), (r"das(?= [A-Z])", "die")])
def test_a_wrong_form_anywhere_is_noticed(right: str, wrong: str) -> None:
    changed = [
        re.sub(rf"\b{right}\b", wrong, reply) for reply in replies(per_topic=8) if re.search(rf"\b{right}\b", reply)
    ]
    assert len(changed) > 20
    unnoticed = [text for text in changed if not objections(text)]
    assert len(unnoticed) < len(changed) / 10, unnoticed[:5]
