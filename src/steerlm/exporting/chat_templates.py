"""The chat template in the forms that others need: guarded, for llama.cpp, and as a template of Go's for Ollama.

Other servers render the template to text and tokenize the text, so a message that spells a control token would become
one. The template of an export therefore refuses such messages: a stock vLLM server then answers with status 400.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

from jinja2 import Environment, meta
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from steerlm.attributes import AttributeSchema, Value
from steerlm.encoding import control_tokens
from steerlm.native import ANSWER_ONLY, RECORD
from steerlm.template.installing import installed_template

_GUARD = """\
{#- Other servers tokenize what is rendered here, so no message may spell a control token. -#}
{%- set control_tokens = __TOKENS__ -%}
{%- macro refuse(given, name) -%}
    {%- if given -%}
        {%- set said = given | string -%}
        {%- for token in control_tokens -%}
            {%- if token in said -%}
                {{- raise_exception(name ~ ' holds the control token ' ~ token) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
__VARIABLES__
{%- for message in messages -%}
    {%- set said = message.content if message.content is string else '' -%}
    {%- if message.content and message.content is not string -%}
        {#- Templates write parts one after another, some of them trimmed. No loop: it would make vLLM send parts. -#}
        {%- set parts = message.content | map(attribute='text') | select('string') | list -%}
        {%- set said = parts | join ~ '\\n' ~ (parts | map('trim') | join) -%}
    {%- endif -%}
    {%- set said = said ~ '\\n' ~ message.role ~ '\\n' ~ (message.name or '') ~ '\\n' ~ (message.tool_call_id or '') -%}
    {%- set said = said ~ '\\n' ~ (message.reasoning_content or '') ~ '\\n' ~ (message.reasoning or '') -%}
    {%- set said = said ~ '\\n' ~ (message.thinking or '') -%}
    {%- if message.tool_calls -%}
        {%- set said = said ~ '\\n' ~ (message.tool_calls | string) -%}
    {%- endif -%}
    {{- refuse(said, 'message of role ' ~ message.role) -}}
{%- endfor -%}
"""
_GUARD_ENDS = "\n{%- endfor -%}\n"
"""Of this guard and of earlier ones, with the line breaks around."""
_NO_TEXT = {"messages", "attributes", "add_generation_prompt", "raise_exception", "strftime_now"}
"""Variables without text of their own: looked at apart (messages, and attributes by the header), flags, functions."""
_NO_THINKING = """\
{#- llama.cpp asks for thinking in every request, and the header stands behind it. -#}
{%- if attributes is not defined or attributes is none or attributes -%}
    {%- set enable_thinking = false -%}
{%- endif -%}
"""
_CONTENT = "{{ .Content }}"
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}\n?")


def guarded(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the tokenizer's chat template with a guard in front that refuses control tokens in what it is given.

    What a template may write of a message is looked at: its role, its text or the text of its parts, thoughts, and
    calls of tools; and every other variable that it reads, such as tools and documents, but the special tokens.
    """
    template = tokenizer.chat_template
    assert isinstance(template, str)
    if template.startswith(_GUARD.splitlines()[0]):
        template = template.partition(_GUARD_ENDS)[2]
    recorded: Collection[str] = tokenizer.init_kwargs.get("chat_control_tokens") or ()
    control = control_tokens(tokenizer, {*recorded, *installed_template(tokenizer).tokens})
    tokens = json.dumps(sorted(set(control.values())), ensure_ascii=False)
    names = sorted(_variables(template) - _NO_TEXT - {"bos_token", "eos_token", *tokenizer.special_tokens_map})
    variables = "\n".join(f"{{{{- refuse({name}, 'the variable {name}') -}}}}" for name in names)
    return _GUARD.replace("__TOKENS__", tokens).replace("__VARIABLES__", variables) + template


def _variables(template: str) -> set[str]:
    """Return the variables of a request that a template may read; some that it sets on one way only are among them."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    return meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template)))


def for_llama_cpp(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template as llama.cpp can use it: its Jinja does not know the marks around what is trained."""
    template = _GENERATION.sub("", str(tokenizer.chat_template))
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
            chat_template=_GENERATION.sub("", str(tokenizer.chat_template)),
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
