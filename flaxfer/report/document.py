"""A document as a list of blocks, rendered as one HTML page or as Markdown.

Markdown has no figures and no table of contents; otherwise both have the same content.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from flaxfer.report import svg

FIGURES = "figures"
"""Folder beside the page with the files of its figures."""

_EMPTY = (None, "", "\N{EN DASH}")


class Link(str):
    """A path, relative to the page, that is shown as a link with its name, or else the path."""

    path: str

    def __new__(cls, path: str, name: str = "") -> Link:
        """Return a link to a path."""
        link = super().__new__(cls, name or path)
        link.path = path
        return link

    @property
    def url(self) -> str:
        """The quoted path; `./` because a colon in the first folder's name would end a scheme."""
        return "./" + urllib.parse.quote(self.path)


class Links(tuple[Link, ...]):
    """Several links in one cell."""

    @property
    def links(self) -> tuple[Link, ...]:
        """The links."""
        return self


class Label(str):
    """A verdict, such as `helps`, that is shown as a label."""

    @property
    def kind(self) -> str:
        """The slug of the verdict without its qualification."""
        return _slug(re.split("[,:]", self)[0])


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
    each of the first columns, l for words and r for numbers; the others hold numbers. Other columns
    than the first are left out if they are empty. Notes stand below the table. The last `foot`
    records are summaries.
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
        return {
            name: letter == "r"
            for name, letter in zip(names, align, strict=False)
            if name == names[0] or any(record[name] not in _EMPTY for record in self.records)
        }

    @property
    def rows(self) -> list[list[Any]]:
        """The cells as text, labels or links."""
        names = list(self.columns)
        return [[_cell(record[name]) for name in names] for record in self.records]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else value


@dataclasses.dataclass(frozen=True)
class Figure:
    """An SVG element, trusted and inserted unescaped, and its caption.

    `files` are the contents of the same figure as files, by suffix; `name` is their stem.
    """

    name: str
    svg: str
    caption: str
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def links(self) -> list[Link]:
        """Links to the files."""
        paths = {suffix: f"{FIGURES}/{self.name}{suffix}" for suffix in self.files}
        return [Link(path, suffix[1:].upper()) for suffix, path in paths.items()]


@dataclasses.dataclass(frozen=True)
class Card:
    """A result at a glance: its label, the number with its interval, and what the number is."""

    label: Label
    number: str
    interval: str
    what: str


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """Pairs of a verdict and the sentence that explains it."""

    items: Sequence[tuple[Label, str]]


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
    """Blocks that are hidden until the reader opens the summary.

    The page's filter hides a block about another `language` than the chosen one.
    """

    summary: str
    blocks: Sequence[Block]
    language: str = ""


Block = Heading | Text | Table | Figure | Card | Verdicts | Tree | Code | Folded


def figures(blocks: Iterable[Block]) -> Iterator[Figure]:
    """Yield the figures among the blocks, folded ones too."""
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Folded):
            yield from figures(block.blocks)


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
    page = svg.Page()
    drawn = {figure.name: Markup(page.add(figure.svg)) for figure in figures(blocks)}
    files = importlib.resources.files("flaxfer.report")
    style, script = ((files / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment.get_template("template.html.j2").render(
        title=title.text,
        sections=[heading for heading in headings if heading.level == 2],
        blocks=blocks,
        kind=lambda block: type(block).__name__,
        slug=_slug,
        anchor=anchor,
        drawn=lambda figure: drawn[figure.name],
        style=f"{style}{page.style}\n",
        script=script,
        script_hash=f"sha256-{digest}",
    )
    return html.lstrip()


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


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
        case Figure():
            files = " ".join(map(_markdown_cell, block.links))
            return f"Plot in report.html: {_escape(block.caption)} {files}".rstrip() + "\n"
        case Card(label, number, interval, what):
            return f"**{_escape(label)}**: {number} {_escape(interval)}, {_escape(what)}\n"
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

    lines = []
    if table.columns:
        lines.append(row(map(_escape, table.columns)))
        lines.append(row("---:" if numeric else "---" for numeric in table.columns.values()))
    lines += [row(map(_markdown_cell, cells)) for cells in table.rows]
    parts = [f"{_escape(table.caption)}\n", "".join(lines)]
    parts.append("".join(f"- {_escape(note)}\n" for note in table.notes))
    return "\n".join(filter(None, parts))


def _markdown_cell(content: str | Links) -> str:
    if isinstance(content, Links):
        return " ".join(map(_markdown_cell, content))
    text = _escape(content)
    return f"[{text}](<{content.url}>)" if isinstance(content, Link) else text


def _escape(text: str) -> str:
    """Return the text on one line, with Markdown's special characters escaped."""
    text = re.sub(r"([\\`*\[\]|<>~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))", r"\\\1", text)
    return " ".join(text.split())
