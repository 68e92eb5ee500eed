"""A guard in front of a chat template, for programs that tokenize what it renders.

They render the template to text and tokenize the text, so a message that spells a control token would become one. The
template of an export or adapter therefore refuses such messages: a stock vLLM server then answers with status 400. Our
own encoder renders it with placeholders in place of contents, so that the guard changes nothing there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from jinja2 import Environment, meta

from steerlm.encoding import control_tokens
from steerlm.template.installing import installed_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
__CHECKS__
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
_SCORES = """
{%- if messages[-1].role != 'assistant' -%}
    {{- raise_exception('a conversation to score must end with an assistant turn') -}}
{%- endif -%}"""
_GUARD_ENDS = "\n{%- endfor -%}\n"
"""Of this guard and of earlier ones, with the line breaks around."""
_NO_TEXT = {"messages", "attributes", "add_generation_prompt", "raise_exception", "strftime_now"}
"""Variables without text of their own: looked at apart (messages, and attributes by the header), flags, functions."""
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}\n?")


def guarded(tokenizer: PreTrainedTokenizerBase, scores: bool = False) -> str:
    """Return the tokenizer's chat template with a guard in front that refuses control tokens in what it is given.

    What a template may write of a message is looked at: its role, its text or the text of its parts, thoughts, and
    calls of tools; and every other variable that it reads, such as tools and documents, but the special tokens.

    Args:
        scores: refuse what does not end with an answer as well, of which a head on the last token would say something.
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
    checks = variables + (_SCORES if scores else "")
    return _GUARD.replace("__TOKENS__", tokens).replace("__CHECKS__", checks) + template


def _variables(template: str) -> set[str]:
    """Return the variables of a request that a template may read; some that it sets on one way only are among them."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    return meta.find_undeclared_variables(environment.parse(without_generation_marks(template)))


def without_generation_marks(template: str) -> str:
    """Return a template without the marks around what is trained, which Hugging Face's Jinja alone knows."""
    return _GENERATION.sub("", template)
