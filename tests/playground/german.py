"""A small grammar of German, which knows nothing of the generator: what in a sentence would a speaker object to?

Checked are capitals, doubled words, spelling (every word stands in `german_words.yaml`), the agreement of article,
adjective and noun in gender, number and case, the case that a preposition governs, objects that are no nominatives, and
the place of the finite verb: second in a statement, first behind a clause, last in a subordinate clause.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

_WORDS = yaml.safe_load(Path(__file__).with_name("german_words.yaml").read_text(encoding="utf-8"))


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


NOUNS = {noun: _set(readings) for readings, nouns in _WORDS["nouns"].items() for noun in nouns.split()}
FINITE, EITHER = _set(_WORDS["finite"]), _set(_WORDS["finite_or_infinitive"])
IMPERATIVES, INFINITIVES, PARTICIPLES = (_set(_WORDS[kind]) for kind in ("imperative", "infinitive", "participle"))
ADVERBS, STEMS = _set(_WORDS["adverbs"]), _set(_WORDS["adjectives"])
PARTICLES = _set("ab an auf aus ein mit um zu halber seufz hallo danke ach na")
PRONOUNS = _set(
    "ich du er sie es man wir mich dich sich mir dir ihm ihn uns niemand jemanden nichts was wer alle "
    "alles beide einer einem manche"
)
SUBJECTS = _set("ich du er man wir")
COPULAS = _set("bin bist ist sind war waren sein werde wird wirst werden wurde heißt gilt")
NUMBERS = _set(
    "zwei drei vier fünf sechs acht neun zehn zwölf fünfzehn zwanzig zweiunddreißig zweiundvierzig zweiundfünfzig "
    "hundert zweihundert dreitausend fünftausend zehntausend fünfzigtausend paar genug viel mehr wenig weniger etwas"
)
AND = _set("und oder sowie")
COORDINATORS = _set("und oder aber denn")
SUBORDINATORS = _set("wenn weil dass damit ob solange")
RELATIVES = _set("der die das den dem was wer")
QUESTIONS = _set("was wie warum")
PREPOSITIONS = {
    **dict.fromkeys(["aus", "bei", "mit", "nach", "seit", "von", "zu"], "d"),
    **dict.fromkeys(["durch", "für", "gegen", "ohne", "bis"], "a"),
    **dict.fromkeys(["an", "auf", "in", "über", "unter", "vor", "zwischen"], "da"),
    "um": "a", "voller": "gd", "pro": "nad", "als": "ngda", "wie": "ngda",
}  # fmt: skip
AUF_WITH_ACCUSATIVE = _set("achte verzichte freuen")
"""Verbs whose own object, the first behind `auf`, is in the accusative."""
CONTRACTIONS = {
    **dict.fromkeys(["am", "im", "beim", "vom", "zum"], ("md", "nd")), "zur": ("fd",), "ans": ("na",)
}  # fmt: skip
ALL = frozenset("".join(pair) for pair in itertools.product("mfnp", "ngda"))

# which readings each ending of a determiner allows
DER = {
    "der": "mn fg fd pg", "die": "fn fa pn pa", "das": "nn na", "den": "ma pd", "dem": "md nd", "des": "mg ng",
}  # fmt: skip
DER_ENDINGS = {"er": "mn fg fd pg", "e": "fn fa pn pa", "es": "nn na mg ng", "en": "ma pd", "em": "md nd"}
EIN_ENDINGS = {**DER_ENDINGS, "": "mn nn na", "er": "fg fd pg", "es": "mg ng"}
DER_LIKE = ("dies", "jed", "welch", "all", "manch", "jen")
EIN_LIKE = ("ein", "kein", "mein", "dein", "sein", "ihr", "unser")
# which readings each ending of an adjective allows, behind a word like `der`, like `ein`, and without one
WEAK = {"e": "mn fn fa nn na", "en": "mg ma md fg fd ng nd pn pg pd pa"}
MIXED = {"er": "mn", "es": "nn na", "e": "fn fa", "en": "mg ma md fg fd ng nd pn pg pd pa"}
STRONG = {"er": "mn fg fd pg", "e": "fn fa pn pa", "es": "nn na", "en": "mg ng ma pd", "em": "md nd"}


def objections(text: str) -> list[str]:
    """Return what is wrong with a text, one line for each; nothing where a speaker has no objection."""
    found = []
    if re.search(r"\s\s|\s[,.!?:]", text) or not re.search(r"[.!?]$", text):
        found.append(f"spacing or last sign: {text!r}")
    sentences = [sentence.strip() for sentence in re.findall(r"[^.!?:]+[.!?:]", text)]
    for before, sentence in itertools.pairwise(["", *sentences]):
        # behind a colon what is no sentence begins with a small letter
        found += [f"{problem}: {sentence!r}" for problem in _sentence(sentence, begins=not before.endswith(":"))]
    return found


def _sentence(sentence: str, begins: bool) -> Iterator[str]:
    tokens = re.findall(r"[^\W\d_]+|,", sentence)
    for first, second in itertools.pairwise(tokens):
        if first.lower() == second.lower():
            yield f"{first} stands twice"
    if begins and tokens[0][0].islower():
        yield "begins with a small letter"
    words = []
    for i, token in enumerate(tokens):
        small = token[0].lower() + token[1:]
        if i == 0 and token not in NOUNS:
            token = small
        if token != "," and _tag(token) == "?":
            yield f"{token} is no German word, or wrongly capitalised"
        words.append(token)
    words = _joined(words)
    yield from _agreement(words)
    yield from _order(words, sentence[-1])


def _joined(words: Sequence[str]) -> list[str]:
    """Make one word of `am besten` and `ein paar`."""
    text = f" {' '.join(words)} ".replace(" am besten ", " am_besten ").replace(" ein paar ", " paar ")
    return text.split()


def _tags(words: Sequence[str]) -> list[str]:
    """Return the word classes in a sentence, where a few depend on their neighbours."""
    tags = [_tag(word) for word in words]
    for i, word in enumerate(words):
        if word == "zu" and i + 1 < len(words) and (tags[i + 1] in "AU" or words[i + 1].startswith("viel")):
            tags[i] = "V"  # too much, not to
        if word in RELATIVES and i and words[i - 1] == "," and _is_subordinate(next(_parts(words[i:])), first=False):
            tags[i] = "R"
    return tags


def _tag(token: str) -> str:
    """Return the word class of a token that is written as within a sentence: see the keys below."""
    if token in NOUNS:
        return "N"
    if token == "am_besten":
        return "V"
    for kind, members in (
        ("F", FINITE), ("M", IMPERATIVES), ("P", PREPOSITIONS.keys() | CONTRACTIONS.keys()), ("U", NUMBERS),
        ("R", PRONOUNS), ("C", AND),
    ):  # fmt: skip
        if token in members and _determiner(token) is None:
            return kind
    if _determiner(token) is not None:
        return "D"
    if token in EITHER:
        return "E"
    if token in INFINITIVES:
        return "I"
    if token in ADVERBS | PARTICIPLES | PARTICLES | COORDINATORS | SUBORDINATORS | QUESTIONS:
        return "V"
    return "A" if _adjective_ending(token) else "," if token == "," else "?"


def _determiner(token: str) -> tuple[frozenset[str], dict[str, str]] | None:
    """Return the readings that an article or its like allows, and the endings of adjectives behind it."""
    if token in DER:
        return _set(DER[token]), WEAK
    for likes, endings, adjectives in ((EIN_LIKE, EIN_ENDINGS, MIXED), (DER_LIKE, DER_ENDINGS, WEAK)):
        for like in likes:
            if token.startswith(like) and token[len(like) :] in endings:
                readings = _set(endings[token[len(like) :]])
                return frozenset(r for r in readings if like != "ein" or r[0] != "p"), adjectives
    if token in ("viele", "vielen"):
        return _set(STRONG[token[4:]]), STRONG
    return None


def _adjective_ending(token: str) -> str:
    found = re.fullmatch(r"(.+?)(en|em|er|es|e)", token)
    while found and found[1] not in STEMS:
        found = re.fullmatch(rf"({re.escape(found[1])}.+?)(en|em|er|es|e)", token)
    return found[2] if found else ""


# --- agreement


@dataclass(frozen=True)
class _NounPhrase:
    """A noun with what belongs to it; `governed`: the cases that a preposition allows, empty without one."""

    text: str
    place: int
    readings: frozenset[str]
    governed: str
    bare: bool


def _noun_phrases(words: Sequence[str]) -> Iterator[_NounPhrase]:
    tags = _tags(words)
    governed = ""  # holds over a list as well
    around = ""  # what governs the noun that a preposition belongs to, as in "water with honey and old bread"
    for i, (word, tag) in enumerate(zip(words, tags, strict=True)):
        if tag == "P":
            around = (around or governed or "ngda") if i and tags[i - 1] == "N" else ""
            governed = PREPOSITIONS.get(word, "da")
            if word == "auf" and AUF_WITH_ACCUSATIVE & set(words) and word not in words[:i]:
                governed = "a"
        elif tag in "C," and governed:
            governed += around
        elif tag in "FMEIR" or word in COORDINATORS - AND or (tag == "," and not _list_goes_on(tags[i + 1 :])):
            governed = ""
        if tag != "N":
            continue
        start = i
        while start and tags[start - 1] in "AU":
            start -= 1
        before = words[start - 1] if start else ""
        determiner = _determiner(before) if start and tags[start - 1] == "D" else None
        allowed, endings = (ALL, STRONG) if determiner is None else determiner
        if before in CONTRACTIONS:
            allowed, endings = frozenset(CONTRACTIONS[before]), WEAK
        adjectives = [w for w in words[start:i] if _tag(w) == "A"]
        for adjective in adjectives:
            allowed &= _set(endings.get(_adjective_ending(adjective), ""))
        text = " ".join(words[(start - 1 if determiner or before in CONTRACTIONS else start) : i + 1])
        yield _NounPhrase(text, i, _readings(word) & allowed, governed, determiner is None and not adjectives)
        if tags[i + 1 : i + 2] not in (["C"], [","], ["P"]):
            governed = ""


def _readings(noun: str) -> frozenset[str]:
    """Return what a noun can be; every infinitive makes a neuter."""
    return NOUNS[noun] | (_set("nn na nd") if noun.lower() in INFINITIVES | EITHER else frozenset())


def _agreement(words: Sequence[str]) -> Iterator[str]:
    """Check every noun with the article and the adjectives before it, and the case behind a preposition."""
    tags = "".join(_tags(words))
    for i, word in enumerate(words):
        if word in CONTRACTIONS and not re.match("[AV]*N", tags[i + 1 :]):
            yield f"no noun behind {word}"
    for phrase in _noun_phrases(words):
        if not phrase.readings:
            yield f"no agreement in {phrase.text!r}"
        elif phrase.governed and not phrase.bare and not any(r[1] in phrase.governed for r in phrase.readings):
            yield f"wrong case of {phrase.text!r} behind a preposition"


def _objects(clause: Sequence[str]) -> Iterator[str]:
    """Check that nouns are no nominatives where the subject is a pronoun and the verb no copula."""
    subjects = [i for i, word in enumerate(clause) if word in SUBJECTS and clause[max(i - 1, 0)] not in ("als", "wie")]
    if not subjects or COPULAS & set(clause):
        return
    for phrase in _noun_phrases(clause):
        if not phrase.governed and phrase.readings and all(reading[1] == "n" for reading in phrase.readings):
            yield f"{phrase.text!r} is a nominative, but no subject"


def _list_goes_on(tags: Sequence[str]) -> bool:
    return re.match("[DAUV]*N", "".join(tags)) is not None


# --- the place of the verb

FOCUS = _set("schon sogar auch nur fast etwa erst sehr ganz rund früh")
"""Adverbs that stand before a noun phrase without being a constituent of their own."""
# B: a focus adverb; G: an article that may be a genitive; otherwise the letters of `_tag`
_NOUN_PHRASE = r"(?:B*(?:[DG]?U?[AU]*B*A*N|[DG]A+|[DG]?U|[DG]|R))"
_CONSTITUENT = re.compile(rf"S|[VB]+,?|V?PI|B*P*{_NOUN_PHRASE}(?:(?:[C,]P*|B*P+){_NOUN_PHRASE}|GA*N)*")


def _order(words: Sequence[str], sign: str) -> Iterator[str]:
    """Check where the finite verb of every clause stands, and the objects beside it."""
    clause: list[str] = []
    comma = [","]
    for part in _parts(words):
        if _is_subordinate(part, first=not clause):
            finite = [word for word in part if word in FINITE]
            if _tag(part[-1]) not in "FEIM" or (finite and part[-1] not in FINITE):
                yield f"the verb does not end the clause {' '.join(part)!r}"
            yield from _objects(part)
            clause, comma = clause or ["<clause>"], []
            continue
        places = _finite_places(part)
        starts_anew = clause and (part[0] in COORDINATORS or part[0] == "also") and places
        if starts_anew or (places and _finite_places(clause) and _tag(part[0]) == "R"):
            yield from _main_clause(clause, sign)
            clause = []
        clause += [*comma, *part] if clause else part
        comma = [","]
    yield from _main_clause(clause, sign)


def _parts(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in [*words, ","]:
        if word == ",":
            if part:
                yield part
            part = []
        else:
            part.append(word)


def _is_subordinate(part: Sequence[str], first: bool) -> bool:
    if part[0] in SUBORDINATORS:
        return True
    return not first and part[0] in RELATIVES and len(part) > 1 and _tag(part[-1]) in "FEI"


def _finite_places(words: Sequence[str]) -> list[int]:
    return [i for i, word in enumerate(words) if word != "<clause>" and _tag(word) in "FM"]


def _main_clause(words: Sequence[str], sign: str) -> Iterator[str]:
    words = list(words)
    yield from _objects([word for word in words if word != "<clause>"])
    while words and (words[0] in COORDINATORS or words[0] in ("ach", "na", "gut", "ehrlich", ",")):
        words = words[1:]
    tags = "".join(
        "S" if word == "<clause>" else "W" if word in QUESTIONS and i == 0 else tag
        for i, (word, tag) in enumerate(zip(words, _tags(words), strict=True))
    )
    places = _finite_places(words)
    if not places and tags[-1:] not in ("I", "E"):
        places = [i for i, tag in enumerate(tags) if tag == "E"]
    if not places:
        return  # a fragment, such as a list of infinitives or an exclamation
    place = places[0]
    before = tags[:place]
    if place == 0:
        if sign != "?" and tags[0] != "M":
            yield "a statement begins with its verb"
    elif before[0] == "W" or (words[0].startswith("welch") and sign == "?"):
        if not re.fullmatch(r"WV?|D[UA]*N", before):
            yield f"the verb is not second behind {' '.join(words[:place])!r}"
    elif not _CONSTITUENT.fullmatch(_fine(words, before)):
        yield f"the verb is not second behind {' '.join(words[:place])!r}"


def _fine(words: Sequence[str], tags: str) -> str:
    """Return the tags with those of focus adverbs and possible genitives told apart."""
    return "".join(
        "B"
        if word in FOCUS or (word == "zu" and tag == "V")
        else "G"
        if tag == "D" and any(r[1] == "g" for r in (_determiner(word) or [()])[0])
        else tag
        for word, tag in zip(words, tags, strict=False)
    )
