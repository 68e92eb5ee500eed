"""One text, two forms: the Markdown that a template writes, and the self-contained page that is rendered from it.

A line that begins with `MARK` arranges the page and is left out of the Markdown: `section ID: NAME IN THE CONTENTS`,
`part NAME` (a box with that style, up to `end`), `fold: TITLE` (closed at first, up to `end`). Charts are images with
an address of `chart:`; the page has them inline.
"""

from __future__ import annotations

import html
import importlib.resources
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from steerlm.reporting.formatting import DASH, FORMATS, MINUS, shade

MARK = "\x1e"
"""Begins a line that arranges the page; no text from data holds it, for it counts as white space and is collapsed."""
_NUMBER = rf"([{MINUS}\d.,]+(?: %)?|{DASH})"
_INTERVAL, _NOTE = re.compile(rf"{_NUMBER} \[([^],]+), ([^],]+)\](.*)"), re.compile(rf"{_NUMBER} \((.+?)\)(.*)")


@dataclass
class Charts:
    """The charts of a page, by their address."""

    held: dict[str, Markup] = field(default_factory=dict)

    def add(self, kind: str, caption: str, drawing: Markup, note: str = "") -> None:
        """Take a chart in, under a caption and a smaller note."""
        small = Markup(" <small>{}</small>").format(note) if note else ""
        figure = Markup("<figure><figcaption>{}{}</figcaption>{}</figure>").format(caption, small, drawing)
        self.held[f"{kind}-{len(self.held)}"] = figure

    def legend(self, kind: str, lines: Sequence[tuple[str, str]]) -> None:
        """Take a legend in: the style of a line, and what it stands for."""
        items = Markup("").join(Markup('<li><i class="{}"></i>{}</li>').format(style, text) for style, text in lines)
        self.held[f"{kind}-{len(self.held)}"] = Markup('<ul class="legend">{}</ul>').format(items)

    def of(self, kind: str) -> str:
        """Return the images of one kind, in the order in which they were taken in."""
        return "\n".join(f"![](chart:{key})" for key in self.held if key.rpartition("-")[0] == kind)


def write_out(template: str, context: Mapping[str, Any], charts: Charts, title: str) -> tuple[str, str]:
    """Render a template of `assets`; returns the Markdown and the page."""
    environment = Environment(
        loader=PackageLoader("steerlm.reporting", "assets"),
        undefined=StrictUndefined,
        trim_blocks=True,
        autoescape=False,
    )
    environment.filters |= FORMATS
    source = environment.get_template(template).render(**context, at=MARK, charts=charts)
    return _plain(source), _page(source, charts.held, title)


def _plain(source: str) -> str:
    text = re.sub(rf"^{MARK}fold: (.+)$", r"### \1", source, flags=re.MULTILINE)
    text = re.sub(rf"^(?:{MARK}.*|!\[\]\(chart:[^)]*\))$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _page(source: str, charts: Mapping[str, Markup], title: str) -> str:
    renderer = _Renderer(charts)
    contents, body, open_section = [], [], False
    closing: list[str] = []
    for piece in re.split(rf"^(?={MARK})", source, flags=re.MULTILINE):
        if piece.startswith(MARK):
            line, _, piece = piece[1:].partition("\n")
            kind, _, name = line.partition(" ")
            if kind == "section":
                section, _, shown = name.partition(": ")
                if open_section:
                    body.append("</section>\n")
                open_section = True
                body.append(f'<section id="{section}">\n')
                contents.append(f'<a href="#{section}">{escape(html.unescape(shown))}</a>')
            elif kind == "end":
                body.append(closing.pop())
                renderer.part = ""
            elif kind == "fold:":
                renderer.heading = name
                body.append(f"<details><summary>{renderer.inline(name)}</summary>\n")
                closing.append("</details>\n")
            else:
                renderer.part = name
                body.append(f'<div class="{name.partition(" ")[0]}">\n')
                closing.append("</div>\n")
        body.append(renderer.render(piece))
    assert not closing, "every part ends"
    head, _, rest = "".join([*body, "</section>" if open_section else ""]).partition("<section")
    shell = (importlib.resources.files("steerlm.reporting") / "assets" / "page.html").read_text(encoding="utf-8")
    style = (importlib.resources.files("steerlm.reporting") / "assets" / "page.css").read_text(encoding="utf-8")
    navigation = f'<nav aria-label="Contents">{" ".join(contents)}</nav>' if contents else ""
    parts = {"title": str(escape(title)), "style": style, "head": head + navigation}
    parts["body"] = f"<section{rest}" if rest else ""
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], shell)


class _Renderer:
    """CommonMark with tables to HTML in which figures have their interval in small print.

    Attributes:
        part: the part that is being rendered: a part `heat HOW` shades the cells of its tables.
        heading: names the next table for people who do not see the page.
    """

    def __init__(self, charts: Mapping[str, Markup]) -> None:
        self.part = self.heading = ""
        self._charts = charts
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self._markdown.add_render_rule("image", _chart)
        self._markdown.add_render_rule("raw", _as_it_is)

    def inline(self, text: str) -> str:
        """Render a line."""
        return str(self._markdown.renderInline(text))

    def render(self, source: str) -> str:
        tokens = self._markdown.parse(source)
        out: list[Token] = []
        for i, token in enumerate(tokens):
            following = tokens[i + 1] if i + 1 < len(tokens) else token
            if token.type == "heading_open":
                self.heading = following.content
            elif token.type == "blockquote_open" and tokens[i + 2].content.startswith(("**Warning", "**Note")):
                token.attrSet("class", "warning")
            elif token.type == "paragraph_open" and _only_images(following):
                token.tag = tokens[i + 2].tag = "div"
                if "legend" not in str((following.children or [token])[0].attrs.get("src")):
                    token.attrSet("class", "panels")
            elif token.type == "table_open":
                label = escape(html.unescape(re.sub(r"\\(.)", r"\1", self.heading)))
                out.append(_raw(f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'))
                self._dress(tokens[i:])
            out.append(token)
            if token.type == "table_close":
                out.append(_raw("</div>\n"))
        return str(self._markdown.renderer.render(out, self._markdown.options, dict(self._charts)))

    def _dress(self, tokens: Sequence[Token]) -> None:
        """Make the first cell of every row its header, set intervals in small print, and shade cells."""
        columns: list[str] = []
        column, row, in_body = 0, "", False
        for i, token in enumerate(tokens):
            if token.type == "table_close":
                return
            in_body = in_body or token.type == "tbody_open"
            column = -1 if token.type == "tr_open" else column
            if token.type not in ("th_open", "td_open"):
                continue
            column += 1
            cell = tokens[i + 1]
            if not in_body:
                columns.append(cell.content)
            elif column == 0:
                token.tag = tokens[i + 2].tag = "th"
                token.attrSet("scope", "row")
                row = cell.content
            else:
                if self.part.startswith("heat"):
                    own = row == columns[column]
                    token.attrSet(*_HEAT[self.part.removeprefix("heat ")](_value(cell.content), own))
                value, small = _small_print(cell.content)
                if small:
                    cell.children = [
                        *self._children(value), _raw('<span class="ci">'), *self._children(small), _raw("</span>")
                    ]  # fmt: skip

    def _children(self, text: str) -> list[Token]:
        return self._markdown.parseInline(text)[0].children or []


def _chart(_: object, tokens: Sequence[Token], i: int, options: object, env: Mapping[str, Markup]) -> str:
    return str(env[str(tokens[i].attrs["src"]).removeprefix("chart:")])


def _as_it_is(_: object, tokens: Sequence[Token], i: int, options: object, env: object) -> str:
    return tokens[i].content


def _raw(text: str) -> Token:
    return Token("raw", "", 0, content=text)


def _only_images(inline: Token) -> bool:
    return bool(inline.children) and all(child.type in ("image", "softbreak") for child in inline.children or [])


def _small_print(cell: str) -> tuple[str, str]:
    """Tell a figure from its interval, or from why it has none, and from what follows."""
    if found := _INTERVAL.fullmatch(cell):
        return found[1], f"{found[2]} to {found[3]}{found[4]}"
    found = _NOTE.fullmatch(cell)
    return (found[1], found[2] + found[3]) if found else (cell, "")


def _value(cell: str) -> float | None:
    found = re.match(rf"[{MINUS}\d.]+", cell)
    return float(found[0].replace(MINUS, "-")) if found else None


def _leak(value: float | None, own: bool) -> tuple[str, str]:
    return ("class", "self") if own else ("style", f"background: {shade(value, 0.5)}")


def _share(value: float | None, own: bool) -> tuple[str, str]:
    return "style", f"background: {shade(None if value is None else value if own else -value, 100)}"


def _wins(value: float | None, own: bool) -> tuple[str, str]:
    return ("class", "self") if own else ("style", f"background: {shade(None if value is None else value - 50, 50)}")


def _correlation(value: float | None, own: bool) -> tuple[str, str]:
    return ("class", "self") if own else ("style", f"background: {shade(value)}")


_HEAT: Mapping[str, Callable[[float | None, bool], tuple[str, str]]] = {
    "leaks": _leak,
    "shares": _share,
    "wins": _wins,
    "correlations": _correlation,
}
"""What a cell's number says in colour, and whether it is a row's own column."""
