"""Find the bracketed verdict that a judge states, among those that it quotes, echoes, denies or drafts.

A verdict is stated where it stands alone on its line, behind a label (`Rating:`, `My final verdict is`), or as what
the judge says in its own name (`so I rate it`). Of several the last counts if it takes the others back; else two that
differ are a problem, and so is a statement followed by another value that is spoken of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

_QUOTED = "\ufffc"
"""Stands for every character that the judge quotes."""
_DECORATED = "\ufffb"
"""Stands behind a verdict in quotation marks of its own: it counts where it is stated, as judges copy the marks from
the prompt, and is passed over where it is mentioned."""
_QUOTATIONS = re.compile(
    r"\[The Start of .*?(?:\[The End of [^\]]*\]|\Z)"  # the prompt itself, echoed
    r"|<\|The Start of .*?(?:<\|The End of [^|]*\|>|\Z)"
    r"|```.*?(?:```|\Z)"
    r"|<(?P<tag>quote|blockquote|q|answer_\w+|assistant_\w+|response_\w+)>.*?(?:</(?P=tag)>|\Z)"
    r"|`[^`\n]+`"
    r"|“[^“”]*”|„[^„“”]*[“”]|「[^「」]*」|『[^『』]*』|‘[^‘’]*(?:(?<=\w)’(?=\w)[^‘’]*)*’"
    r'|(?<![\w"])"(?=[^\s"])[^"]*(?<=\S)"(?!\w)'
    r"|(?<![\w'])'(?=[^\s'])(?:[^']|(?<=\w)'(?=\w)){1,500}?(?<=\S)'(?!\w)"
    r"|^[ \t]*>[^\n]*",
    re.DOTALL | re.MULTILINE,
)
_MARKUP = "*_`~#>|\"'“”‘’„「」『』 \t\r" + _DECORATED
_BRACKETS = re.compile(r"\[\[(?P<inner>[^\[\]\n]{1,60})\]\]")
_LABELLED_ALONE = re.compile(rf"[\w ]{{0,30}}:?\s*[*_]*{_BRACKETS.pattern}[*_.]*")
_SINGLE = re.compile(r"(?<!\[)\[(?P<inner>\s*\d+(?:\.\d+)?\s*)\](?!\])")
_SHORT_FORMS = re.compile(r"\b(?:e\. ?g\.|i\. ?e\.)", re.IGNORECASE)
_BRACKETED_SCALE = re.compile(r"(\]\])\s*(?:/|out of)\s*\[\[(\d+)\]\]")
_OUT_OF = re.compile(r"\s*(?:/|out of)\s*(?P<most>\d+(?:\.\d+)?)\b|\s*(?:points?|stars?)\b")

_NOUNS = (
    "rating|score|verdict|judge?ment|decision|choice|grade|conclusion|evaluation|assessment|winner|result|mark|level|"
    "answer|pick|vote|final|overall|bewertung|urteil|note|punktzahl|wertung|nota|voto|punteggio|verdetto|puntuación|calificación|"
    "veredicto|valoración|avaliação|veredito|pontuação|évaluation|оценка|рейтинг|вердикт|ocena|beoordeling|oordeel"
)
_EASTERN = "评分|评价|评级|分数|得分|裁决|判定|结论|評価|評点|判定|結論|スコア|평가|점수|평점|판정|결론|평결"
_LINK = (
    r"(?:\s*\b(?:is|as follows|remains|stays|would be|will be|est|ist|es|é|è)\b(?:\s*(?:a|an|the)\b)?|\s*(?:是|为|は))?"
)
_CONNECTIVE = (
    r"(?:(?:so|thus|hence|therefore|overall|finally|in conclusion|to conclude|in summary|in short|and|but|then|ok|okay|"
    r"no|wait|actually|hm+|sorry|correction|rather|or rather|instead|on second thought|on reflection|on closer look|"
    r"all in all|consequently|accordingly|as a result)\b[\s,.!:—–-]*)*"
)
_OWNERS = (
    r"(?:(?:my|the|our|its|mi|mon|ma|mein|meine|il|la|le|el|die|das|der|o|мой|моя|overall|final|"
    r"combined|total|single|better|best|winning|resulting|revised|corrected)\s+)*"
)
_OBJECT = (
    r"(?:(?:it|this|the|that|assistant(?: [ab12])?(?:'s)?|ai(?:'s)?|response|answer|reply|one|an?|as|at|with|to|of|for|"
    r"score|rating|verdict|grade|final|overall|is)\b\s*)*"
)
_PREFERENCE = (
    r"(?:\w+:\s*)?(?:assistant\s+)?[ab](?:'s\s+(?:answer|response))?\s+(?:is|was)\s+"
    r"(?:(?:the|slightly|much|clearly)\s+)*(?:better|best|superior|stronger|winner)(?:\s+(?:answer|response|one|assistant))?|"
    r"(?:(?:it's|it is|this is|both are)\s+)?(?:an?\s+)?(?:tie|equal|equally good)"
)
_FIRST_PERSON = (
    r"I(?:'d|'ll)?(?: will| would| do| must| have to| can only| therefore| thus| hence| shall)*\s+"
    r"(?:rate|give|choose|judge|assign|score|pick|vote|prefer|award|go with|settle on|decide on|decide|conclude|"
    r"select)\b"
    rf"\s*{_OBJECT}"
)
_COMPARISON = re.compile(
    r"[^,]*\b(?:better|best|wins?|winner|tie|tied|equal|equally good|superior|stronger|preferable)\b[^,:]*:",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\b(?:if|unless|were|had|example|format|such as|whenever|suppose|assuming)\b|如果|例如|格式|예를|例えば",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"\b(?:which|if|unless|when|were|was|asked|requested|demanded|instructed|claim\w*|example|format|or)\b|"
    r"\bI\b[^.]*\b(?:ignor|disregard|reject|follow)",
    re.IGNORECASE,
)
_REASON = re.compile(r"(?:です|だ|입니다)|(?:because|since|as|due to|for|given|based on)\b", re.IGNORECASE)
_PREVAILS = re.compile(r"(?:is|was|wins?|has)\b[^.]*\b(?:better|best|wins?|winner|superior|stronger)\b", re.IGNORECASE)
_FINAL = re.compile(r"\b(?:final|overall|revised|corrected|conclusion)\b|最终|最終|최종", re.IGNORECASE)
_TAKEN_BACK = re.compile(
    r"\b(?:no|wait|actually|hm+|reconsider\w*|correction|corrected|scratch that|oops|revis\w+|changed? my|mistaken|"
    r"I was wrong|mixed (?:\w+ ){0,3}up|swapped|on reflection|second thoughts?|(?:closer|second) look|re-?reading)\b",
    re.IGNORECASE,
)
_DECORATION = re.compile(rf"\\boxed\b|[^\w\s'.,:;=…—–{_QUOTED}-]|(?<!\w)-+")
_CLAUSE = re.compile(r"[,;—–]\s+(?:so\s+|and\s+|thus\s+|hence\s+|therefore\s+)?|\s(?:so|therefore)\s|:\s+(?=I\b|my\b)")
_IN_ITS_OWN_NAME = re.compile(
    r"I\b|my\b|the (?:final|overall)\b|final\b|overall\b|(?:so|thus|hence|therefore)$", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?;…]+[*_\"'”’)]*(?=\s|$|\[)|。")
_WINDOW = 300
"""Characters beside a verdict that are looked at."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Bracketed:
    """What stands in double brackets.

    Attributes:
        end: where it ends, a scale such as `/10` included.
        most: the highest value of the scale named behind it; empty where none is.
        decorated: it stood in quotation marks of its own.
        stated: it is what the judge concludes, not something that it speaks of.
        final: the words before it call it final.
    """

    inner: str
    begin: int
    end: int
    most: str
    decorated: bool
    stated: bool
    final: bool


def without_quotations(text: str) -> str:
    """Return the text with a filler for what the judge quotes: in quotation marks, code, quoted lines, prompt parts."""
    return _QUOTATIONS.sub(_hidden, text)


def was_taken_back(text: str, begin: int, end: int) -> bool:
    """Tell whether the judge takes back, between the two places, what it said before."""
    return _TAKEN_BACK.search(text, begin, end) is not None


def stated_value(text: str, label: str, read: Callable[[Bracketed], Value], missing: str) -> tuple[Value | None, str]:
    """Return the value that the judge states, or why there is none.

    Args:
        text: the output without the thinking.
        label: a word that may stand before a verdict, beside `rating` and its like: the attribute's name.
        read: what a bracket says; equal values agree.
    """
    text = _BRACKETED_SCALE.sub(r"\1/\2", _SHORT_FORMS.sub("for example", text))
    text = without_quotations(text)
    matches = list(_BRACKETS.finditer(text))
    single = not matches
    if single:  # `Rating: [5]`
        matches = list(_SINGLE.finditer(text))
    found = list(_classified(text, matches, label, needs_label=single))
    stated = [(one, read(one)) for one in found if one.stated]
    if not stated:
        return None, missing if single else f"{missing} stated as the verdict, only quoted or spoken of"
    last, value = stated[-1]
    for one, other in stated[:-1]:
        if other != value and not was_taken_back(text, one.end, last.begin) and not (last.final and not one.final):
            return None, f"two different verdicts: {one.inner} and {last.inner}"
    for one in found:
        if one.begin > last.begin and not one.decorated and read(one) != value:
            return None, f"unclear: {last.inner} is stated, then {one.inner} is spoken of"
    return value, ""


def _hidden(match: re.Match[str]) -> str:
    """Quotation marks or a code block around nothing but a verdict only decorate it."""
    inner = re.sub(r"\A```\w*\s*|\s*```\Z", "", match[0]).strip(_MARKUP)
    if _LABELLED_ALONE.fullmatch(inner) and not match[0].lstrip().startswith(">"):
        return inner + _DECORATED
    return re.sub(r"[^\n]", _QUOTED, match[0])


def _classified(text: str, matches: Sequence[re.Match[str]], label: str, needs_label: bool) -> Iterator[Bracketed]:
    nouns = f"(?:{_NOUNS}|{label})" if label else f"(?:{_NOUNS})"
    conclusion = re.compile(
        rf"{_CONNECTIVE}(?:{_OWNERS}(?:{nouns}\s*){{1,3}}(?:(?:for|of)\s+(?:the\s+)?\w+)?{_LINK}|{_FIRST_PERSON}|"
        rf"\w{{0,8}}(?:{_EASTERN}){_LINK}|{_PREFERENCE})?[\s:=—–-]*",
        re.IGNORECASE,
    )
    for i, match in enumerate(matches):
        begin = max(matches[i - 1].end() if i else 0, match.start() - _WINDOW)
        end = min(matches[i + 1].start() if i + 1 < len(matches) else len(text), match.end() + _WINDOW)
        scale = _OUT_OF.match(text, match.end(), end)
        behind = scale.end() if scale else match.end()
        before = _words(_sentence_before(text[begin : match.start()]))
        stated = _concludes(before, conclusion) and _ends_there(text[behind:end])
        yield Bracketed(
            inner=match["inner"].strip(_MARKUP),
            begin=match.start(),
            end=behind,
            most=(scale["most"] or "") if scale else "",
            decorated=text[match.end() : match.end() + 1] == _DECORATED,
            stated=stated and not (needs_label and not before),
            final=_FINAL.search(before) is not None,
        )


def _sentence_before(text: str) -> str:
    """Return what stands before a verdict in its sentence; a line above that ends with a colon belongs to it."""
    *lines, sentence = text.split("\n")
    if not sentence.strip(_MARKUP + "-•"):
        above = next((line for line in reversed(lines) if line.strip(_MARKUP)), "")
        sentence = above if above.strip(_MARKUP).endswith((":", "=")) else sentence
    ends = list(_SENTENCE_END.finditer(sentence))
    return sentence[ends[-1].end() :] if ends else sentence


def _words(text: str) -> str:
    plain = _DECORATION.sub(" ", text.replace("’", "'").replace("_", " "))
    return re.sub(r"\s+", " ", plain).strip(" .=…")


def _concludes(words: str, conclusion: re.Pattern[str]) -> bool:
    if _CONDITION.search(words) or words.strip(",;: ").lower() in ("and", "but", "then"):
        return False
    if conclusion.fullmatch(words) or _COMPARISON.fullmatch(words):
        return True
    own = _CLAUSE.split(words)[-1].strip()  # behind another clause only what the judge says in its own name
    return bool(_IN_ITS_OWN_NAME.match(own) and conclusion.fullmatch(own))


def _ends_there(text: str) -> bool:
    """Tell whether what follows a verdict closes the statement or explains it."""
    line = text.split("\n")[0].strip(_MARKUP)
    end = _SENTENCE_END.search(line)
    rest = (line[: end.start()] if end else line).strip(_MARKUP + ".)}$\\")
    if not re.search(r"\w", rest) or _REASON.match(rest):
        return True
    explains = rest[0] in "(,:—–-=" or rest[0].isupper() or _PREVAILS.match(rest)
    return bool(explains) and not _ASIDE.search(rest)
