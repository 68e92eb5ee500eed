"""The chat template in the forms that others need: for llama.cpp, and as a template of Go's for Ollama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from steerlm.attributes import AttributeSchema, Value
from steerlm.native import ANSWER_ONLY, RECORD
from steerlm.template.guarding import without_generation_marks

_NO_THINKING = """\
{#- llama.cpp asks for thinking in every request, and the header stands behind it. -#}
{%- if attributes is not defined or attributes is none or attributes -%}
    {%- set enable_thinking = false -%}
{%- endif -%}
"""
_CONTENT = "{{ .Content }}"


def for_llama_cpp(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template as llama.cpp can use it: its Jinja does not know the marks around what is trained."""
    template = without_generation_marks(str(tokenizer.chat_template))
    return _NO_THINKING + template if tokenizer.init_kwargs[RECORD]["template"] == "native" else template


def ollama_template(tokenizer: PreTrainedTokenizerBase, schema: AttributeSchema, setting: Mapping[str, Value]) -> str:
    """Return the chat template as a template of Go's with one setting written in.

    It is put together from what the chat template itself renders. The beginning-of-sequence token is left out: Ollama
    writes it where the GGUF file says so.
    """
    user, assistant, system = ({"role": role, "content": "\x00"} for role in ("user", "assistant", "system"))

    def rendered(messages: Sequence[Mapping[str, Any]], wanted: Mapping[str, Value] | None = None) -> str:
        variables = {**tokenizer.special_tokens_map, **ANSWER_ONLY, "bos_token": ""}
        if wanted is not None:
            variables["attributes"] = schema.validate(wanted)
        [text], _ = render_jinja_template(
            conversations=[list(messages)],
            chat_template=without_generation_marks(str(tokenizer.chat_template)),
            add_generation_prompt=wanted is not None,
            **variables,
        )
        return str(text).removeprefix(tokenizer.bos_token or "")

    first, asked = rendered([user], setting).split("\x00")
    _, answer, again, _ = rendered([user, assistant, user]).split("\x00")
    # behind a last message Phi writes what ends a conversation
    closing = _common_front(asked, answer, rendered([user]).split("\x00")[1])
    fronts = [first, again]
    takes_system = tokenizer.init_kwargs[RECORD].get("system", True)
    if takes_system:
        before, between, _ = rendered([system, user]).split("\x00")
        fronts.append(between)
    # a user's turn begins with what stands in front of it everywhere (Gemma puts the system message inside of it); the
    # rest belongs to the turn before
    front = _common_front(*(text[::-1] for text in fronts))[::-1]
    start = first.removesuffix(front)
    turns = {"user": f"{front}{_CONTENT}{closing}"}
    turns["assistant"] = f"{answer.removeprefix(closing)}{_CONTENT}{again.removesuffix(front)}"
    if takes_system:
        turns = {"system": f"{before}{_CONTENT}{between.removesuffix(front)}", **turns}
    parts = [f"{{{{ if not .System }}}}{start}{{{{ end }}}}" if start else "", "{{ range .Messages }}"]
    for i, (role, turn) in enumerate(turns.items()):
        parts.append(f'{{{{ {"else " if i else ""}if eq .Role "{role}" }}}}{turn}')
    return "".join([*parts, "{{ end }}{{ end }}", asked.removeprefix(closing)])


def _common_front(*texts: str) -> str:
    alike = takewhile(lambda characters: len(set(characters)) == 1, zip(*texts, strict=False))
    return "".join(first for first, *_ in alike)
