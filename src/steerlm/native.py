"""An instruct model's own chat template as the carrier of the attribute header.

The template stays as it is: Jinja in front of it puts the header at the start of an assistant's content, behind any
thinking, and Jinja behind it cuts the turn that a prompt opens. The prompt is begun as a finished turn is, so it is the
front of what was trained, whatever the template writes there. Whether a template can carry headers is tried out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, TemplateError, TemplateSyntaxError

from steerlm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECORD = "steerlm"
"""Key of the tokenizer's configuration that says which template and schema are installed."""
_OPENING = "{%- set steered_text %}\n"
_CLOSING = (
    "{{ '' }}{% endset -%}\n{{- (steered_text.split(cut)[:-1] | join(cut)) if steered.opens else steered_text -}}\n"
)
_NO_PARTS = "{{- raise_exception('content of an assistant message with attributes must be text') -}}"
_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")
_SPARE = re.compile(r"<\|?(unused|reserved|extra|special|placeholder)\w*\|?>|\[unused\d+\]", re.IGNORECASE)
_BROKEN = (TemplateError, TypeError, ValueError, LookupError)
"""What a template raises over messages that it was not written for."""
_QUESTION, _ANSWER, _AGAIN, _REPLY = (f"\ufdd1{name}\ufdd1" for name in ("question", "answer", "again", "reply"))
_CONVERSATIONS: tuple[tuple[str, ...], ...] = (
    ("Hi",),
    ("Hi", " \n Hello.\n"),
    ("Hi", "<think>\nHm\n</think>\n\nHello.", "And?"),
    ("Hi", "Hello.", "And?", "\nWell."),
)
_NO_THINKING = {"enable_thinking": False}
ANSWER_ONLY = {"steerlm_answer": True, "enable_thinking": False}
"""Variables with which a prompt without a header is the front of a finished turn, too."""

Chat = Sequence[Mapping[str, object]]
Render = Callable[..., str]
"""(template, messages, add_generation_prompt, **variables) -> text."""


def ending_ids(tokenizer: PreTrainedTokenizerBase) -> int | list[int]:
    """Return what ends generation: the end-of-sequence token, and where the template is the model's own its end of turn
    (which need not be that token)."""
    record = tokenizer.init_kwargs.get(RECORD)
    eos: int = tokenizer.eos_token_id
    if record is None or record["template"] != "native":
        return eos
    names = [token for tokens in reversed(record["ends"]) for token in reversed(tokens)]
    ends: list[int] = tokenizer.convert_tokens_to_ids(names)
    return list(dict.fromkeys([*ends, *([] if eos is None else [eos])]))


class TurnLayout(NamedTuple):
    """How a template writes an assistant's turn.

    Attributes:
        fronts: what may stand between a user's content and the answer.
        ends: control tokens that end a turn in the middle of a conversation, and its last turn.
        answers: whether the template's own generation prompt is the front of a finished turn.
        system: whether a conversation may begin with a system message.
        beginning: whether a conversation begins with the beginning-of-sequence token.
    """

    fronts: tuple[str, ...]
    ends: tuple[tuple[str, ...], tuple[str, ...]]
    answers: bool
    system: bool
    beginning: bool

    @property
    def stops(self) -> list[str]:
        """Tokens that end a response; the first is the one that ends a conversation."""
        middle, last = self.ends
        return list(dict.fromkeys([*reversed(last), *middle]))


def own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template that a tokenizer came with, also where a header was put into it."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if not isinstance(template, str) or not template.strip():
        raise UserError(
            f"template: native needs a chat template, and the tokenizer {tokenizer.name_or_path!r} has none; take an "
            "instruct model, or name a template: steerlm, chatml, llama3, nemo"
        )
    before, opening, rest = template.partition(_OPENING)
    return rest.rpartition(_CLOSING)[0] if opening else before


def spare_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return tokens that the model has and nobody uses, by id: those kept in reserve (`<unused7>`), then special ones
    that neither the template nor an office such as end of sequence needs."""
    template = own_template(tokenizer)
    held = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
    free = {token: index for token, index in tokenizer.get_vocab().items() if token not in held}
    by_id = sorted(free, key=free.__getitem__)
    reserve = [token for token in by_id if _SPARE.fullmatch(token) and token not in template]
    special = set(tokenizer.all_special_tokens) | {
        token.content for token in tokenizer.added_tokens_decoder.values() if token.special
    }
    return reserve + [token for token in by_id if token in special and token not in template and token not in reserve]


def wrapped(own: str, label: str, marks: tuple[str, str], render: Render) -> str:
    """Return a template with the header put into it.

    Args:
        label: Jinja that defines the macro `label` for a schema.
        marks: tokens around the header.

    Raises:
        UserError: the template cannot be read.
    """
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub(_plain, own))
    except TemplateSyntaxError as error:
        raise UserError(f"the model's chat template, line {error.lineno}: {error.message}") from None
    texts = (resources.files("steerlm") / "templates").joinpath
    front = texts("native.jinja").read_text(encoding="utf-8")
    parts = _chat(_QUESTION, [{"type": "text", "text": _ANSWER}])
    takes_parts = _tried(render, own, parts) == _tried(render, own, _chat(_QUESTION, _ANSWER))
    front = front.replace(
        "__PARTS__", texts("native_parts.jinja").read_text(encoding="utf-8") if takes_parts else _NO_PARTS
    )
    for mark, token in zip(("__OPEN__", "__CLOSE__"), marks, strict=True):
        front = front.replace(mark, json.dumps(token, ensure_ascii=False))
    front = re.sub(r"__TRIMMED (.+?)__", _trimming(own, render), front)
    # Jinja drops one line break at the end of a template, and at its start one behind a block
    return label + front + _OPENING + _GENERATION.sub(_plain, own).removesuffix("\n") + _CLOSING


def _plain(tag: re.Match[str]) -> str:
    """Replace a mark of trained text: inside a captured text, its positions would be wrong."""
    return f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}"


def _trimming(own: str, render: Render) -> str:
    """Return, as what replaces `__TRIMMED name__`, what the template does to the beginning of an answer: the header now
    hides it from the template. Some trim the last answer only."""
    spaced = f"\n \n{_ANSWER}"
    last = _trim(own, render, [_QUESTION], spaced, [])
    middle = _trim(own, render, [_QUESTION], spaced, [_AGAIN, _REPLY])
    return rf"\g<1>{last}" if last == middle else rf"(\g<1>{last} if latest else \g<1>{middle})"


def _trim(own: str, render: Render, before: list[str], answer: str, after: list[str]) -> str:
    """Return the Jinja call that trims as the template trims an answer at this place."""
    front = (_tried(render, own, _chat(*before, _ANSWER, *after)) or "").partition(_ANSWER)[0]
    said = (_tried(render, own, _chat(*before, answer, *after)) or "").removeprefix(front)
    if said.startswith("\n \n"):
        return ""
    return r".lstrip('\\n')" if said.startswith(" \n") else ".lstrip()"


def _chat(*contents: str | list[dict[str, str]], system: str | None = None) -> list[dict[str, object]]:
    chat: list[dict[str, object]] = [] if system is None else [{"role": "system", "content": system}]
    for i, content in enumerate(contents):
        chat.append({"role": "assistant" if i % 2 else "user", "content": content})
    return chat


def _tried(render: Render, template: str, chat: Chat, prompt: bool = False, **variables: object) -> str | None:
    """Return the text of a conversation, or None where the template refuses it."""
    try:
        return render(template, chat, prompt, **variables)
    except _BROKEN:
        return None


def examined(
    own: str, text: str, render: Render, marks: tuple[str, str], control: Collection[str], bos: str | None
) -> TurnLayout:
    """Try out a template with the header put into it.

    Args:
        text: the model's own template with the header, see `wrapped`.
        marks: tokens around the header.
        control: tokens that no text can yield.
        bos: the beginning-of-sequence token.

    Raises:
        UserError: what the template cannot do.
    """
    tell = partial(_refused, own=own)
    try:
        render(own, _chat(_QUESTION, _ANSWER), False)
        asked = render(own, _chat(_QUESTION, _ANSWER, _AGAIN, _REPLY), False, enable_thinking=False)
    except _BROKEN as error:
        raise tell(f"it refuses a question and an answer: {error}") from None
    places = [asked.find(content) for content in (_QUESTION, _ANSWER, _AGAIN, _REPLY)]
    for content, role in ((_QUESTION, "user"), (_ANSWER, "assistant"), (_AGAIN, "user"), (_REPLY, "assistant")):
        if asked.count(content) != 1:
            raise tell(f"it writes the content of a message of role {role} {asked.count(content)} times, not once")
    if places != sorted(places):
        raise tell("it changes the order of the messages")
    _require_untouched(own, text, render, tell)
    layout = _layout(own, render, control, bos, tell)
    _require_header(own, text, render, marks, tell)
    return layout


def _refused(reason: str, own: str) -> UserError:
    start = " ".join(own.split())[:60]
    return UserError(
        f"the model's own chat template ({start!r} …) cannot carry attributes: {reason}; name another template in the "
        "recipe: steerlm, chatml, llama3, nemo"
    )


def _require_untouched(own: str, text: str, render: Render, tell: Callable[[str], UserError]) -> None:
    """Without attributes the two templates write the same, or refuse the same."""
    chats = [_chat(*contents, system=system) for contents in _CONVERSATIONS for system in (None, "Be kind.")]
    for chat, prompt, thinking in product(chats, (False, True), ({}, {"enable_thinking": True}, _NO_THINKING)):
        if _tried(render, own, chat, prompt, **thinking) != _tried(
            render, text, chat, prompt, attributes={}, **thinking
        ):
            raise tell("it reads variables that change when it is put into another template")


def _layout(
    own: str, render: Render, control: Collection[str], bos: str | None, tell: Callable[[str], UserError]
) -> TurnLayout:
    tokens = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)")
    two = render(own, _chat(_QUESTION, _ANSWER, _AGAIN, _REPLY), False, **_NO_THINKING)
    one = render(own, _chat(_QUESTION, _ANSWER), False, **_NO_THINKING)
    fronts = {_between(two, _QUESTION, _ANSWER), _between(two, _AGAIN, _REPLY), _between(one, _QUESTION, _ANSWER)}
    last = list(run(two.partition(_REPLY)[2], tokens))
    if not last:
        rest = two.partition(_REPLY)[2]
        raise tell(
            f"it ends an answer with {rest!r}, which holds no token of the tokenizer that is kept for this, so a model "
            "cannot learn to stop"
        )
    middle = list(run(_between(two, _ANSWER, _AGAIN), tokens))[: len(last)]
    if not middle:
        raise tell("it ends an answer within a conversation with no token")
    prompt = _tried(render, own, _chat(_QUESTION), True, **_NO_THINKING)
    return TurnLayout(
        tuple(sorted(fronts, key=len, reverse=True)),
        (tuple(middle), tuple(last)),
        prompt is not None and prompt == one[: one.index(_ANSWER)],
        (_tried(render, own, _chat(_QUESTION, _ANSWER, system=_AGAIN)) or "").count(_AGAIN) == 1,
        bool(bos) and one.startswith(str(bos)),
    )


def _between(text: str, start: str, end: str) -> str:
    return text[text.index(start) + len(start) : text.index(end)]


def run(text: str, tokens: re.Pattern[str], position: int = 0) -> Iterator[str]:
    """Yield the first control token in a text and those right behind it."""
    found = tokens.search(text, position)
    while found:
        yield found[0]
        found = tokens.match(text, found.end())


def _require_header(
    own: str, text: str, render: Render, marks: tuple[str, str], tell: Callable[[str], UserError]
) -> None:
    """With attributes the header stands in front of the answer, and nothing else changes."""
    scale = re.search(r"set scales = (\{.*\}) -%\}", text)
    assert scale is not None
    values = {name: levels[0] for name, levels in json.loads(scale[1]).items()}
    chat = _chat(_QUESTION, _ANSWER, _AGAIN, _REPLY)
    chat = [{**message, "attributes": values} if message["role"] == "assistant" else message for message in chat]
    steered = _tried(render, text, chat)
    found = re.search("(?s)" + ".*?".join(map(re.escape, marks)), steered or "")
    header = found[0] if found else ""
    plain = render(own, _chat(_QUESTION, _ANSWER, _AGAIN, _REPLY), False, **_NO_THINKING)
    whole = all(f"{name}:{value}" in header for name, value in values.items())
    if steered is None or not whole or steered.replace(header, "") != plain or steered.count(header) != 2:
        raise tell("it changes with what an answer begins with")
    for answer in (_ANSWER, _REPLY):
        if header + answer not in steered:
            raise tell("it writes something between the beginning of an answer and the rest of it")
    prompt = _tried(render, text, chat[:3], True, attributes=values)
    if prompt != steered[: steered.index(_REPLY)]:
        raise tell("the beginning of an answer depends on what follows it")
