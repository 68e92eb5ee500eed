"""Text measures against counts made by hand, and the degenerate check against real and broken answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerlm.attributes import HELPSTEER, OASST
from steerlm.conversation import Message
from steerlm.scorers import measures

TEXT = "The cat sat on the mat. Did it purr? It did!"


def test_counts_by_hand():
    statistics = measures.text_statistics(TEXT)
    assert statistics.characters == 44
    assert statistics.words == 11
    assert statistics.unique_words == 8  # the cat sat on mat did it purr
    assert statistics.sentences == 3
    assert statistics.distinct_1 == pytest.approx(8 / 11)
    assert statistics.distinct_2 == 1.0
    # every word has one syllable: Flesch's formulas by hand
    assert statistics.flesch_reading_ease == pytest.approx(206.835 - 1.015 * 11 / 3 - 84.6)
    assert statistics.flesch_kincaid_grade == pytest.approx(0.39 * 11 / 3 + 11.8 - 15.59)


def test_measure_reads_the_last_turn_only():
    messages = [Message("user", "one two three"), Message("assistant", TEXT)]
    assert measures.measure(messages) == measures.text_statistics(TEXT)._asdict()


@pytest.mark.parametrize("text", ["", "   ", "...", "\n\n"])
def test_text_without_words(text):
    statistics = measures.text_statistics(text)
    assert statistics.words == statistics.sentences == statistics.flesch_reading_ease == 0
    assert measures.is_degenerate(text)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("No full stop", 1),
        ("Pi is 3.14 here. Next.", 2),
        ('He said "Stop!" Then left...', 2),
        ("# Title\n\nBody text", 2),
        ("one line\nanother line", 1),
        ("Wait... what?!", 2),
    ],
)
def test_sentences(text, sentences):
    assert measures.count_sentences(text) == sentences


def test_words_keep_apostrophes_and_hyphens():
    assert measures.words("Don't re-read snake_case, caf\u00e9 2nd!") == [
        "don't",
        "re-read",
        "snake",
        "case",
        "café",
        "2nd",
    ]


@pytest.mark.parametrize(
    ("word", "syllables"), [("cat", 1), ("water", 2), ("beautiful", 3), ("information", 4), ("re-read", 2), ("42", 1)]
)
def test_syllables(word, syllables):
    assert measures.count_syllables(word) == syllables


def test_harder_text_reads_harder():
    easy = measures.text_statistics("The dog ran. It was fun. We sat in the sun.")
    hard = measures.text_statistics(
        "Notwithstanding considerable methodological disagreement, contemporary epidemiological investigations "
        "demonstrate substantial heterogeneity."
    )
    assert easy.flesch_reading_ease > 90 > 20 > hard.flesch_reading_ease
    assert easy.flesch_kincaid_grade < 3 < 15 < hard.flesch_kincaid_grade


def test_distinct_n_over_a_collection():
    assert measures.distinct_n(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert measures.distinct_n(["a"], 2) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I do not have feelings.",
        "I'm sorry, but I can't do that.",
        "I cannot help with this request.",
        "I won't provide that.",
    ],
)
def test_refusals(text):
    assert measures.is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
        "Leider kann ich diese Frage nicht beantworten.",
        "Als KI-Sprachmodell habe ich keine Gefühle.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Désolé, mais je ne peux pas répondre à cette question.",
        "En tant qu'IA, je n'ai pas d'avis.",
        "Mi dispiace, ma non posso aiutarti.",
        "Het spijt me, maar ik kan daar niet mee helpen.",
        "Przykro mi, ale nie mogę w tym pomóc.",
        "Desculpe, mas não posso ajudar com isso.",
        "К сожалению, я не могу вам помочь.",
        "抱歉，我无法回答这个问题。",
        "作为一个人工智能，我没有感情。",
        "申し訳ありませんが、そのご質問にはお答えできません。",
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
    ],
)
def test_refusals_in_other_languages(text):
    assert measures.is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "Leider regnet es heute, aber du kannst drinnen üben.",
        "Du kannst das nicht alles auf einmal lernen.",
        "Man kann den Teig nicht zu lange kneten.",
        "Como ia dizendo, o pão precisa de tempo.",
        "Lo siento por la espera: aquí está.",
        "Je ne suis pas fan de sucre, mais le gâteau est bon.",
        "Il ne peut pas nager.",
        "Als een kat slaapt, is het stil.",
        "К сожалению, хлеб уже чёрствый.",
        "抱歉让你久等了，这是答案。",
        "すみません、お待たせしました。",
        "人工智能不能完全代替人。",
    ],
)
def test_answers_in_other_languages_are_no_refusals(text):
    assert not measures.is_refusal(text)


def test_no_reply_of_the_playground_that_gives_facts_is_a_refusal():
    from steerlm.playground.lexicon import LANGUAGES, lexicon

    for language in LANGUAGES:
        assert not [text for _, _, text in lexicon(language).remarks() if measures.is_refusal(text)]


def test_scripts_without_spaces_are_counted_by_character():
    assert measures.words("我爱猫。") == ["我", "爱", "猫"]
    assert measures.count_sentences("我爱猫。你呢？很好！") == 3
    assert measures.count_sentences("यह अच्छा है। वह भी।") == 2
    assert measures.words("हिन्दी में") == ["हिन्दी", "में"]  # vowel signs belong to the word
    assert measures.is_degenerate("好的好的好的好的好的")
    assert measures.says_things_twice("今天天气很好我们去公园散步吧" * 3)
    assert not measures.is_degenerate("今天天气很好，我们一起去公园散步吧。")


@pytest.mark.parametrize(
    "text", ["You cannot help yourself.", "I can help with this.", "Sorry for the wait: here it is."]
)
def test_answers_are_no_refusals(text):
    assert not measures.is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "An answer.\nquality:4,toxicity:0",
        "quality:4",
        "Sure: quality:4,humor:2 as asked",
        "text <extra_id_2> more",
        "text <|attributes|>",
        "<|im_start|>user",
    ],
)
def test_label_leaks(text):
    assert measures.has_label_leak(text, OASST)


@pytest.mark.parametrize(
    "text", ["The quality: 4 stars.", "I rate its quality:4 overall", "verbosity:4", "a < b | c > d"]
)
def test_ordinary_text_leaks_no_label(text):
    assert not measures.has_label_leak(text, OASST)


def test_leaks_are_those_of_the_schema_in_use():
    assert measures.has_label_leak("verbosity:4", HELPSTEER)


@pytest.mark.parametrize(
    "text",
    [
        "yes yes yes yes",
        "It is red. It is red. It is red. It is red.",
        "We begin well enough and then " + "the sea is wide and the sky is blue and " * 4,
        "one two three four five six. one two three four five six. " * 2 + "one two three four five six.",
    ],
)
def test_degenerate(text):
    assert measures.is_degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "Yes.",
        "No, no, no! That is not it.",
        "Row, row, row your boat, gently down the stream.",
        "In full: 1,000,000,000,000,000,000 grains of sand.",
        "Bees make honey. Bees live in hives. Bees like flowers. Bees can sting. A bee has six legs and four wings.",
    ],
)
def test_not_degenerate(text):
    assert not measures.is_degenerate(text)


def test_saying_things_twice():
    joke = "my coffee is dark just as my jokes are"  # nine words, 30 letters
    filler = [f"w{i:03}" for i in range(100)]  # four letters each
    assert measures.says_things_twice(f"Here goes: {joke}. Even funnier: {joke}!")
    # the second telling is 30 of 60 + 4 n letters; phrases of nine words may be 11 %, of five (15 letters) 15 %
    for count, twice in ((53, True), (54, False)):
        assert measures.says_things_twice(" ".join([joke, *filler[:count], joke])) is twice
    assert not measures.says_things_twice(f"{joke}. Only this once: and nothing else.")
    # four words in common are not a phrase
    assert not measures.says_things_twice("It is as easy as pie. It is as easy here as there.")


def test_real_answers_of_good_and_bad_models(shared_data: Path):
    """Of 80 answers each to the Vicuna questions: none of ChatGPT's, several of a 13B base model's."""
    folder = shared_data / "vicuna" / "generations"

    def flagged(name: str, field: str) -> int:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        assert len(lines) == 80
        return sum(measures.is_degenerate(json.loads(line)[field]) for line in lines)

    assert flagged("answer_gpt35.jsonl", "text") == 0
    assert flagged("13b-self-instruct-vicuna-generations-topp0.9-temp0.7.jsonl", "generation") >= 5
