"""Measures of a text against the packages they stand for, and where a text does not define them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerlm.errors import UserError
from steerlm.scorers.text_measures import tagging
from steerlm.scorers.text_measures.diversity import mtld_of
from steerlm.scorers.text_measures.language import language_of
from steerlm.scorers.text_measures.reading import textstat_grade
from steerlm.scorers.text_measures.registry import MEASURES, find_measure
from steerlm.scorers.text_measures.tagging import formality, lemma_mtld
from steerlm.scorers.text_measures.words import words

GOLDEN = json.loads((Path(__file__).parent / "golden_measures.json").read_text(encoding="utf-8"))
"""Texts of our own, measured with the package of SteerBench (textstat 0.7.5, taaled 0.32, en_core_web_sm 3.8.0)."""


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row["id"])
def test_grade_of_textstat(row: dict) -> None:
    assert textstat_grade(row["text"]) == row["reading_difficulty"]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row["id"])
def test_formality_of_steerbench(row: dict) -> None:
    found = formality(row["text"], "en")
    if found is None:
        assert not any(character.isascii() and character.isalpha() for character in row["text"])
    else:
        assert found == pytest.approx(row["formality"], abs=1e-9)


_NO_REAL_WORDS = {"url", "p5_science", "typos"}
"""Texts with words that the list of SteerBench does not know; that list is not ours to ship."""


@pytest.mark.parametrize("row", [r for r in GOLDEN if r["id"] not in _NO_REAL_WORDS], ids=lambda row: row["id"])
def test_lemma_mtld_of_steerbench(row: dict) -> None:
    assert lemma_mtld(row["text"]) == pytest.approx(row["textual_diversity"], abs=1e-9)


def test_measures_of_one_text_tag_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tagger, asked = tagging._tagger("en"), []
    assert tagger is not None
    monkeypatch.setattr(type(tagger), "__call__", lambda self, text: (asked.append(text), tagger.make_doc(text))[1])
    formality("One line that nobody has read before.", "en")
    lemma_mtld("One line that nobody has read before.")
    assert asked == ["One line that nobody has read before."]
    lemma_mtld("One line that\nnobody has read before.")
    assert asked[1:] == ["One line that", "nobody has read before."], "as SteerBench has it, line by line"


def test_lemma_mtld_leaves_words_out_that_a_list_lacks() -> None:
    (row,) = (row for row in GOLDEN if row["id"] == "typos")
    known = {word.lower() for word in words(row["text"]) or []} - {
        "definately",
        "recieved",
        "seperate",
        "teh",
        "packige",
    }
    assert lemma_mtld(row["text"], known) != lemma_mtld(row["text"])


def test_mtld_by_hand() -> None:
    # forward: ten equal items close a segment of weight 1 at ten (share 1/10), the last five weigh (1 - 1/5) / 0.28
    assert mtld_of(["a"] * 15) == pytest.approx((10 + 5 * 0.28 / 0.8) / 2)
    assert mtld_of([]) == mtld_of(["a", "b", "c"]) == 0
    assert MEASURES["mtld"]("every word here differs") is None


def test_sentiment_is_vaders() -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    for text in ("I love this, it is great!", "What a horrible, stupid idea.", "The train leaves at five."):
        assert MEASURES["sentiment"](text, "en") == analyzer.polarity_scores(text)["compound"]
    assert MEASURES["sentiment"]("Das ist ein wunderbarer Tag, ich freue mich sehr.") is None


def test_language_is_py3langids() -> None:
    import py3langid

    texts = (
        "Where do we go from here, my friend?",
        "Das ist ein sehr schöner Tag.",
        "Le chat dort sur la table.",
        "¿Dónde está la biblioteca más cercana?",
        "今日は東京へ行きました。",
    )
    assert [language_of(text) for text in texts] == ["en", "de", "fr", "es", "ja"]
    assert [language_of(text) for text in texts] == [py3langid.classify(text)[0] for text in texts]
    assert language_of("```\nfor (int i = 0; i < n; i++)\n```") is None
    assert language_of("12 + 3!") is None
    assert language_of("ok") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't over-think it, 2 words.", ["Don't", "over-think", "it", "2", "words"]),
        ("我们今天去北京大学。OK!", ["我们", "今天", "去", "北京大学", "OK"]),
        ("東京へ行きました", ["東京", "へ", "行き", "まし", "た"]),
        ("ฉันไปตลาด", ["ฉัน", "ไป", "ตลาด"]),
        ("مرحبا يا صديقي", ["مرحبا", "يا", "صديقي"]),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert MEASURES["words"](text) == len(expected)


def test_words_of_a_script_that_nothing_cuts() -> None:
    assert words("ສະບາຍດີ") is None
    assert MEASURES["words"]("ສະບາຍດີ") is None


def test_grade_counts_syllables_in_the_language() -> None:
    english = MEASURES["flesch_kincaid_grade"]("The cat sat on the mat. It was happy.", "en")
    assert english == pytest.approx(0.39 * 9 / 2 + 11.8 * 10 / 9 - 15.59)
    hard = "Die Donaudampfschifffahrtsgesellschaft veröffentlichte außerordentliche Bilanzierungsvorschriften."
    easy = "Der Hund ist da. Er will raus."
    grade = MEASURES["flesch_kincaid_grade"]
    assert grade(hard, "de") > 30 > grade(easy, "de")
    assert grade("我们今天去北京大学。", "zh") is None
    assert grade("...", "en") is None
    assert grade("ผสมแป้ง น้ำ เกลือ และยีสต์ แล้วนวด", "th") is None, "Thai marks no sentences: only length would count"


MARKDOWN = """# Title

- one
- two? **bold**

Plain words here. Is it plain?

```python
print("no question?")
```
See https://a.b/?q=1 now 😀👨‍👩‍👧 and `x`.
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("questions", 2),
        ("list_items", 2),
        ("markdown_share", 7 / 8),
        ("emoji", 2),
        ("sentences", 8),
    ],
)
def test_form(name: str, expected: float) -> None:
    assert MEASURES[name](MARKDOWN) == pytest.approx(expected)


def test_code_share() -> None:
    assert MEASURES["code_share"]("```\nab\n```\ncd `ef`") == pytest.approx(4 / 14)
    assert MEASURES["code_share"]("plain words") == 0


@pytest.mark.parametrize("name", sorted(MEASURES.keys() - {"nltk_tokens"}))  # a fetched sentence model cuts those
def test_an_empty_text_defines_nothing_but_its_words(name: str) -> None:
    if name == "textstat_grade":
        assert MEASURES[name]("") == -15.7
    else:
        assert MEASURES[name](" ") == (0 if name == "words" else None)


def test_own_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_measures_of_test.py").write_text(
        "def shouting(text):\n    return sum(c.isupper() for c in text)\n"
        "def with_language(text, language):\n    return language\n"
        "def wrong(text):\n    return [1]\n"
        "def nothing(text):\n    return float('nan')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert find_measure("my_measures_of_test:shouting")("HeLlo") == 2
    assert find_measure("my_measures_of_test:with_language")("x", "fr") == "fr"
    assert find_measure("my_measures_of_test:nothing")("x") is None
    with pytest.raises(UserError, match=r"wrong returned \[1\] \(list\)"):
        find_measure("my_measures_of_test:wrong")("x")
    with pytest.raises(UserError, match=r"has no function 'shoutin'.*did you mean 'shouting'"):
        find_measure("my_measures_of_test:shoutin")
    with pytest.raises(UserError, match="no module 'no_such_module_of_mine'"):
        find_measure("no_such_module_of_mine:x")
    with pytest.raises(UserError, match="did you mean 'sentences'"):
        find_measure("sentence")
