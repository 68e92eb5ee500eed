"""The chat template as the contract between training, our own generation and any server (SteerLM, section 3.3).

The Jinja template stored in the tokenizer knows the attributes: their order, scales and defaults are baked in. So
`apply_chat_template(messages, attributes={...})`, a stock vLLM server (`chat_template_kwargs`) and
`conversation_encoder` render the same prompt.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

from steerlm.attributes import AttributeSchema
from steerlm.config import HeaderMarks, TemplateChoice, TemplateName
from steerlm.conversation import Message, check_roles
from steerlm.encoding import control_tokens, written_markers
from steerlm.errors import UserError
from steerlm.native import RECORD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _NativeRecord(TypedDict):
    """What is recorded of the model's own template, see `native.TurnLayout`.

    Attributes:
        marks: around the header.
    """

    marks: list[str]
    fronts: list[str]
    ends: list[list[str]]
    system: bool
    beginning: bool


class Template(NamedTuple):
    """A shipped template.

    Attributes:
        tokens: its control tokens.
        stop: the one that ends a response.
        attributes_open: the one in front of the attribute text.
        attributes_close: the one after a label that the generative attribute model writes.
        beginning: whether it starts with the tokenizer's beginning-of-sequence token where the family uses one.
    """

    tokens: tuple[str, ...]
    stop: str
    attributes_open: str
    attributes_close: str
    beginning: bool = True


_HEADER = ("<|attributes|>", "<|end_attributes|>")
TEMPLATES: dict[TemplateName, Template] = {
    "steerlm": Template(("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", *_HEADER), "<|end|>", *_HEADER),
    "chatml": Template(("<|im_start|>", "<|im_end|>", *_HEADER), "<|im_end|>", *_HEADER),
    "llama3": Template(("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", *_HEADER), "<|eot_id|>", *_HEADER),
    "nemo": Template(
        ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>"), "<extra_id_1>", "<extra_id_2>", "<extra_id_1>", False
    ),
}
"""The shipped templates (`templates/<name>.jinja`): the paper's layout, ChatML, Llama 3, and NeMo-Aligner's text."""

RENDERING = threading.Lock()
"""Transformers keeps the positions of generated text in the compiled template, which all threads share."""
_PAD = "<|pad|>"
_AS_TEXT = """\
{{- ',' if not loop.first -}}
        {{- name ~ ':' ~ value -}}"""
_AS_TOKENS = "{{- '<|' ~ name ~ ':' ~ value ~ '|>' if name in tokens else name ~ ':' ~ value ~ ',' -}}"
_MOST_LEVELS = 16
"""Of an attribute whose levels are tokens: digits of long scales say more about their order than tokens seen rarely."""


def chosen_template(tokenizer: PreTrainedTokenizerBase, wanted: TemplateChoice) -> TemplateName | Literal["native"]:
    """Return the template that a recipe's choice means for a tokenizer.

    `auto` is the template that is installed already, else the model's own, else `steerlm`.
    """
    if wanted != "auto":
        return wanted
    record = tokenizer.init_kwargs.get(RECORD)
    if record is not None:
        installed: TemplateName | Literal["native"] = record["template"]
        return installed
    return "native" if tokenizer.chat_template else "steerlm"


def installed_template(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return what the template of ours that is installed in a tokenizer is made of."""
    record = tokenizer.init_kwargs[RECORD]
    levels = tuple(record.get("levels", {}))
    if record["template"] != "native":
        shipped = TEMPLATES[record["template"]]
        return shipped._replace(tokens=(*shipped.tokens, *levels))
    opening, closing = record["marks"]
    middle, last = record["ends"]
    return Template(tuple(dict.fromkeys((opening, closing, *levels, *middle, *last))), last[-1], opening, closing)


def _written(template: TemplateName | Literal["native"], header: HeaderMarks) -> HeaderMarks:
    """Return how a template writes a header that is wanted so: NeMo-Aligner's text has no tokens for levels."""
    return "tokens" if template == "nemo" and header == "levels" else header


def level_tokens(schema: AttributeSchema, header: HeaderMarks) -> dict[str, tuple[str, str]]:
    """Return a token for every level of attributes with few levels, with the words that name the two; {} = none."""
    if header != "levels":
        return {}
    return {
        f"<|{attribute.name}:{level}|>": (attribute.name.replace("_", " "), str(level))
        for attribute in schema
        if len(attribute.levels) <= _MOST_LEVELS
        for level in attribute.levels
    }


def install_template(
    tokenizer: PreTrainedTokenizerBase,
    template: TemplateChoice,
    schema: AttributeSchema,
    header: HeaderMarks = "tokens",
) -> int:
    """Make `template` the tokenizer's chat template and add what it needs.

    Adds missing control tokens as special tokens, bakes the schema's order, scales and defaults into the chat template,
    makes the stop token the end-of-sequence token and sees to a padding token of its own. Survives `save_pretrained`.
    Markers of a template that is replaced are remembered, so that text still cannot yield them. With `native` the
    model's own template carries the header, and its end-of-sequence token stays what it is.

    Args:
        tokenizer: changed in place.
        template: what the recipe says, see `chosen_template`.
        header: how it is written, see `TrainSftConfig.header`; a template that is installed already keeps its own.

    Returns:
        The number of tokens added; the model needs rows for them.

    Raises:
        UserError: a token added would take the id of another, because the tokenizer leaves ids unused; `native` where
            there is no template, or one that cannot carry a header.
    """
    chosen = chosen_template(tokenizer, template)
    before = tokenizer.get_vocab()
    recorded = set(tokenizer.init_kwargs.get("chat_control_tokens") or ())
    if tokenizer.chat_template is not None:
        replaced = tokenizer.chat_template
        sources = [replaced] if isinstance(replaced, str) else replaced.values()
        recorded.update(*(written_markers(tokenizer, source) for source in sources))
    record = tokenizer.init_kwargs.get(RECORD)
    beginning = _uses_beginning(tokenizer) if record is None else record["beginning"]
    if record is not None and record["template"] == chosen:
        header = record.get("header", "tokens")
    header = _written(chosen, header)
    levels = level_tokens(schema, header)
    own: _NativeRecord | None = None
    if chosen == "native":
        own = _install_native(tokenizer, schema, header, levels, recorded, before)
        recorded.update(own["marks"], *own["ends"])
    elif header == "text":
        raise UserError(f"header: {header} goes with template: native, not with template: {chosen}")
    else:
        shipped = TEMPLATES[chosen]
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [*shipped.tokens, *levels]}, replace_extra_special_tokens=False
        )
        tokenizer.add_special_tokens({"eos_token": shipped.stop})
        if tokenizer.pad_token is None or tokenizer.pad_token == shipped.stop:
            tokenizer.add_special_tokens({"pad_token": _PAD})
        _require_own_ids(tokenizer, before)
        tokenizer.chat_template = _template_text(chosen, schema, levels, beginning and shipped.beginning)
        recorded.update(shipped.tokens)
    recorded.update(levels)
    tokenizer.chat_control_tokens = sorted(recorded)
    tokenizer.init_kwargs["chat_control_tokens"] = tokenizer.chat_control_tokens
    tokenizer.init_kwargs[RECORD] = {
        "template": chosen,
        "schema": schema.signature,
        "beginning": beginning,
        "header": header,
        **({"levels": levels} if levels else {}),
        **(own or {}),
    }
    return len(tokenizer.get_vocab()) - len(before)


def _install_native(
    tokenizer: PreTrainedTokenizerBase,
    schema: AttributeSchema,
    header: HeaderMarks,
    levels: Mapping[str, object],
    recorded: set[str],
    before: Mapping[str, int],
) -> _NativeRecord:
    """Put the header into the model's own template; return what is recorded of it."""
    from steerlm.native import examined, own_template, spare_tokens, wrapped

    own = own_template(tokenizer)
    record = tokenizer.init_kwargs.get(RECORD) or {}
    spare = spare_tokens(tokenizer)
    marks: tuple[str, str]
    if "marks" in record:
        marks = tuple(record["marks"])
    elif header != "text":
        marks = _HEADER
    elif len(spare) < 2:
        raise UserError(
            f"header: text needs two tokens that the tokenizer {tokenizer.name_or_path!r} has and nobody uses, such as "
            f"<unused0>, and it has {len(spare)}; use header: tokens"
        )
    else:
        marks = (spare[0], spare[1])
    tokenizer.add_special_tokens({"extra_special_tokens": [*marks, *levels]}, replace_extra_special_tokens=False)
    render = _renderer(tokenizer)
    tokenizer.chat_template = wrapped(own, _label_text(schema, levels), marks, render)
    control = control_tokens(tokenizer, recorded.union(marks, levels)).values()
    layout = examined(own, tokenizer.chat_template, render, marks, set(control), tokenizer.bos_token)
    if tokenizer.pad_token is None or tokenizer.pad_token in layout.stops:
        others = [token for token in (*spare[2:], tokenizer.eos_token) if token not in (None, *layout.stops)]
        pad = others[0] if header == "text" and others else _PAD
        tokenizer.add_special_tokens({"pad_token": pad})
    _require_own_ids(tokenizer, before)
    return {
        "marks": list(marks),
        "fronts": list(layout.fronts),
        "ends": [list(tokens) for tokens in layout.ends],
        "system": layout.system,
        "beginning": layout.beginning,
    }


def _renderer(tokenizer: PreTrainedTokenizerBase) -> Callable[..., str]:
    """Return what renders templates with a tokenizer's special tokens."""
    from transformers.utils.chat_template_utils import render_jinja_template

    variables = dict(tokenizer.special_tokens_map)

    def render(template: str, chat: Sequence[Mapping[str, object]], prompt: bool, **more: object) -> str:
        with RENDERING:
            texts, _ = render_jinja_template(
                conversations=[list(chat)], chat_template=template, add_generation_prompt=prompt, **variables, **more
            )
        return str(texts[0])

    return render


def _require_own_ids(tokenizer: PreTrainedTokenizerBase, before: Mapping[str, int]) -> None:
    """Raise when a token that was added has the id of one that was there, or gets another id when it is read again.

    Tokenizers count their tokens for the next id, which is wrong where ids below the highest are unused.
    """
    now = tokenizer.get_vocab()
    added = {token: index for token, index in now.items() if token not in before}
    taken = set(before.values())
    moved = [token for token, index in added.items() if index in taken]
    if added and not moved and tokenizer.is_fast and len(taken) <= max(taken):
        from tokenizers import Tokenizer

        again = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        moved = [token for token, index in added.items() if again.token_to_id(token) != index]
    if moved:
        unused = sorted(set(range(max(taken))) - taken)
        more = f" and {len(unused) - 8} more" if len(unused) > 8 else ""
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path!r} leaves ids unused ({', '.join(map(str, unused[:8]))}{more}), so "
            f"that the control token {moved[0]!r} would get the id of another token; give it a token for each of "
            "these ids, for example <unused1>, or take another base model"
        )


def _template_text(
    template: TemplateName, schema: AttributeSchema, levels: Mapping[str, object], beginning: bool
) -> str:
    folder = resources.files("steerlm") / "templates"
    text = "".join((folder / f"{name}.jinja").read_text(encoding="utf-8") for name in ("attributes", template))
    return _label_text(schema, levels) + text.replace("__BOS__", "bos_token" if beginning else "''")


def _label_text(schema: AttributeSchema, levels: Mapping[str, object]) -> str:
    """Return Jinja that knows the schema and defines the macro `label`; some levels may be tokens (`level_tokens`)."""
    text = (resources.files("steerlm") / "templates" / "label.jinja").read_text(encoding="utf-8")
    scales = {attribute.name: [str(level) for level in attribute.levels] for attribute in schema}
    level = _AS_TEXT
    if levels:
        few = [name for name, scale in scales.items() if f"<|{name}:{scale[0]}|>" in levels]
        level = _AS_TOKENS.replace("in tokens", f"in {json.dumps(few, ensure_ascii=False)}")
    text = text.replace("__LEVEL__", level)
    return text.replace("__SCALES__", json.dumps(scales)).replace("__DEFAULTS__", json.dumps(schema.defaults))


def _uses_beginning(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether sequences of this tokenizer's family start with its beginning-of-sequence token."""
    if tokenizer.bos_token is None:
        return False
    if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return True
    if isinstance(tokenizer.chat_template, str):
        return "bos_token" in tokenizer.chat_template
    # nothing says so: a token that is also the end of sequence (GPT-2) separates documents and starts nothing
    return bool(tokenizer.bos_token != tokenizer.eos_token and tokenizer.init_kwargs.get("add_bos_token") is not False)


class Stretch(NamedTuple):
    """A stretch of rendered text, and whether the model is trained to write it."""

    text: str
    trained: bool


def render(
    messages: Sequence[Message], template: TemplateName, schema: AttributeSchema, header: HeaderMarks
) -> list[Stretch]:
    """Return the text of a conversation under a shipped template, without a tokenizer and its beginning of sequence.

    Raises:
        UserError: wrong roles or a label off the schema.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    check_roles(messages)
    chat = [
        {
            "role": m.role,
            "content": m.content,
            **({"attributes": schema.validate(m.attributes)} if m.attributes else {}),
        }
        for m in messages
    ]
    with RENDERING:
        texts, spans = render_jinja_template(
            conversations=[chat],
            chat_template=_template_text(template, schema, level_tokens(schema, _written(template, header)), False),
            return_assistant_tokens_mask=True,
        )
    weights = [message.weight for message in messages if message.role == "assistant"]
    trained = [span for span, weight in zip(spans[0], weights, strict=True) if weight]
    edges = [0, *(edge for span in trained for edge in span), len(texts[0])]
    return [Stretch(texts[0][a:b], i % 2 == 1) for i, (a, b) in enumerate(pairwise(edges)) if a < b]
