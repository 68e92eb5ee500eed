"""A first recipe as YAML for people: every value with its reason beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import yaml

from steerlm.attributes import AttributeSchema
from steerlm.planning.choosing import Chosen, Section

_WIDTH = 120


def write_recipe(head: Mapping[str, Chosen], schema: AttributeSchema, sections: Section, comment: str) -> str:
    """Return the recipe.

    Args:
        head: what stands before the attributes.
        schema: the attributes.
        sections: of the stages.
        comment: what stands on top.
    """
    lines = [*_comment(comment, ""), *_lines(head, "")]
    lines += ["", *_comment(_ABOUT, ""), "attributes:"]
    for row in schema.to_dict():
        lines += [f"  {'  ' if i else '- '}{key}: {_flow(value)}" for i, (key, value) in enumerate(row.items())]
    for name, section in sections.items():
        lines += ["", *_lines({name: section}, "")]
    return "\n".join(lines) + "\n"


_ABOUT = (
    "Who says a value: `measure` the text itself, `judge` an LLM that rates some turns, `classifier` a model, none of "
    "them: people. `default` is what is asked for when nobody turns the dial; `low` and `high` say what its ends mean "
    "(a judge reads them: put them in your own words)."
)


def _lines(section: Mapping[str, Chosen | Section], indent: str) -> Iterator[str]:
    for key, entry in section.items():
        if not isinstance(entry, Chosen):
            yield f"{indent}{key}:"
            yield from _lines(entry, indent + "  ")
            continue
        value = entry.value
        if isinstance(value, list):
            yield from _comment(entry.why, indent)
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {_flow(item)}" for item in value)
            continue
        line = f"{indent}{key}: {_flow(value)}"
        if len(line) + len(entry.why) + 4 > _WIDTH:
            yield from _comment(entry.why, indent)
            yield line
        else:
            yield line + (f"  # {entry.why}" if entry.why else "")


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent) - 2)]


def _flow(value: object) -> str:
    """Return a value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
