"""A document as a list of blocks, rendered as one HTML page or as Markdown.

Markdown has no figures and no table of contents; otherwise both have the same content.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2

GLYPH = "DejaVuSans-"
"""Prefix of the ids of glyphs in figures; equal ids are equal glyphs in all figures."""


class Link(str):
    """A path, relative to the page, that is shown as a link."""

    @property
    def url(self) -> str:
        """The quoted path; `./` because a colon in the first folder's name would end a scheme."""
        return "./" + urllib.parse.quote(self)


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the page."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; `lead` emphasizes the most important sentence."""

    text: str
    lead: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Records that map the names of the columns to cells; the first column names the rows.

    Integers are shown with thousands separators, None as an empty cell. `align` has a letter for
    each of the first columns, l for words and r for numbers; the others hold numbers. Notes stand
    below the table. The last `foot` records are summaries.
    """

    caption: str
    records: Sequence[Mapping[str, Any]]
    align: str
    notes: Sequence[str] = ()
    foot: int = 0

    @property
    def columns(self) -> dict[str, bool]:
        """The names of the columns, and whether they hold numbers."""
        names = list(self.records[0]) if self.records else []
        align = self.align.ljust(len(names), "r")
        return {name: letter == "r" for name, letter in zip(names, align, strict=False)}

    @property
    def rows(self) -> list[list[str]]:
        """The cells as text or links."""
        return [
            [
                "" if value is None else f"{value:,}" if isinstance(value, int) else value
                for value in record.values()
            ]
            for record in self.records
        ]


@dataclasses.dataclass(frozen=True)
class Figure:
    """An SVG element, trusted and inserted unescaped, and its caption."""

    svg: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """Pairs of a verdict, such as `helps`, and the sentence that explains it."""

    items: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Tree:
    """A text with child trees; `bad` highlights a text that needs attention."""

    text: str
    branches: Sequence[Tree] = ()
    bad: bool = False


@dataclasses.dataclass(frozen=True)
class Code:
    """Preformatted text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Folded:
    """Blocks that are hidden until the reader opens the summary."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Text | Table | Figure | Verdicts | Tree | Code | Folded


def to_html(blocks: Sequence[Block]) -> str:
    """Return one page that loads no other file; the first heading is its title."""
    title, *headings = (block for block in blocks if isinstance(block, Heading))
    counts: Counter[str] = Counter()

    def anchor(text: str) -> str:
        counts[slug := _slug(text)] += 1
        return slug if counts[slug] == 1 else f"{slug}-{counts[slug]}"

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flaxfer.report", "."),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    page = environment.get_template("template.html.j2").render(
        title=title.text,
        sections=[heading for heading in headings if heading.level == 2],
        blocks=blocks,
        kind=lambda block: type(block).__name__,
        slug=_slug,
        anchor=anchor,
    )
    return _define_glyphs_once(page.lstrip())


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _define_glyphs_once(page: str) -> str:
    """Return the page without repeated definitions of glyphs, which are a third of a figure."""
    seen = set[str]()

    def keep_first(definition: re.Match[str]) -> str:
        repeated = definition[1] in seen
        seen.add(definition[1])
        return "" if repeated else definition[0]

    page = re.sub(rf'<path id="({GLYPH}[^"]*)"[^>]*/>', keep_first, page)
    return page.replace("<defs></defs>", "")


def to_markdown(blocks: Sequence[Block]) -> str:
    """Return GitHub-flavoured Markdown; folded blocks stand under a heading."""
    return "\n".join(filter(None, map(_markdown_block, blocks)))


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_escape(text)}\n"
        case Text(text, lead):
            return f"**{_escape(text)}**\n" if lead else f"{_escape(text)}\n"
        case Table():
            return _markdown_table(block)
        case Figure(_, caption):
            return f"Plot in report.html: {_escape(caption)}\n"
        case Verdicts(items):
            return "".join(f"- **{_escape(word)}**: {_escape(text)}\n" for word, text in items)
        case Tree():
            return "".join(_markdown_tree(block))
        case Code(text):
            # The fence must be longer than any run of backticks in the text.
            fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
            return f"{fence}\n{text}\n{fence}\n"
        case Folded(summary, inner):
            return f"### {_escape(summary)}\n\n{to_markdown(inner)}"


def _markdown_tree(tree: Tree, depth: int = 0) -> Iterator[str]:
    text = _escape(tree.text)
    yield f"{'  ' * depth}- {f'**{text}**' if tree.bad else text}\n"
    for branch in tree.branches:
        yield from _markdown_tree(branch, depth + 1)


def _markdown_table(table: Table) -> str:
    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    def cell(content: str) -> str:
        text = _escape(content)
        return f"[{text}](<{content.url}>)" if isinstance(content, Link) else text

    lines = []
    if table.columns:
        lines.append(row(map(_escape, table.columns)))
        lines.append(row("---:" if numeric else "---" for numeric in table.columns.values()))
    lines += [row(map(cell, cells)) for cells in table.rows]
    parts = [f"{_escape(table.caption)}\n", "".join(lines)]
    parts.append("".join(f"- {_escape(note)}\n" for note in table.notes))
    return "\n".join(filter(None, parts))


def _escape(text: str) -> str:
    """Return the text on one line, with Markdown's special characters escaped."""
    text = re.sub(r"([\\`*\[\]|<>~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))", r"\\\1", text)
    return " ".join(text.split())
