"""A document as a list of blocks, written as one HTML page or as Markdown.

Both come from the same blocks, so both say the same; only figures and the list of contents are left
out of Markdown.
"""

from __future__ import annotations

import dataclasses
import html
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

GLYPH = "DejaVuSans-"
"""What ids of glyphs in figures begin with; equal ones are equal in all figures."""


class Link(NamedTuple):
    """Text that leads to a file or folder, relative to the page."""

    text: str
    path: str


Cell = str | Link


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the page."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; `lead` sets the sentence that matters most larger."""

    text: str
    lead: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells are text or links; the first of a row names it, and the last `foot` rows sum up.

    `align` has a letter for every column: l for words, r for numbers. Notes stand below.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str
    notes: Sequence[str] = ()
    foot: int = 0


@dataclasses.dataclass(frozen=True)
class Figure:
    """An SVG element, trusted as it is, and its caption."""

    svg: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """Sentences, each after its verdict, such as `helps`."""

    items: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Tree:
    """Texts with what grows from each; `bad` marks one that needs a look."""

    text: str
    branches: Sequence[Tree] = ()
    bad: bool = False


@dataclasses.dataclass(frozen=True)
class Contents:
    """The headings of level 2 as links, where they are not plain to see: in the page."""


@dataclasses.dataclass(frozen=True)
class Code:
    """Text in which every character counts."""

    text: str


@dataclasses.dataclass(frozen=True)
class Folded:
    """Blocks that the reader opens by the summary."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Text | Table | Figure | Verdicts | Tree | Contents | Code | Folded

# The policy holds the page to its word: nothing is loaded from anywhere.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""

# Colours of the series: Okabe and Ito's blue, vermilion and sky blue, told apart by the
# colour-blind, in a darker or lighter tone where the background asks for it.
STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #57606a;
  --line: #d0d7de; --band: #f3f5f7; --direct: #0072b2; --staged: #d55e00; --scratch: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #14171b; --soft: #a5afba;
  --line: #3a424b; --band: #1e2329; --direct: #56b4e9; --staged: #f0883e; --scratch: #b3b3b3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  -webkit-text-size-adjust: 100%; overflow-wrap: break-word; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem clamp(1rem, 4vw, 2.5rem) 3rem; }
h1 { font-size: clamp(1.5rem, 5vw, 2.1rem); line-height: 1.2; margin: 1rem 0 .75rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0 1rem; }
p.lead { font-size: 1.1rem; font-weight: 600; border-left: .25rem solid var(--soft);
  padding-left: .9rem; }
a { color: var(--direct); }
h2 a, h3 a { color: inherit; text-decoration: none; }
h2 a:hover::after, h3 a:hover::after { content: " #"; color: var(--soft); }
nav { margin: 1rem 0; font-size: .92rem; line-height: 1.9; }
nav a { margin-right: 1.1rem; white-space: nowrap; }
ul.verdicts { list-style: none; padding: 0; max-width: 52rem; }
ul.verdicts li { border-left: .25rem solid var(--line); padding: .1rem 0 .1rem .8rem;
  margin: .7rem 0; }
ul.verdicts .helps { border-color: var(--staged); }
ul.verdicts .hurts { border-color: var(--direct); }
ul.tree { max-width: 60rem; }
ul.tree, ul.tree ul { list-style: none; padding-left: 0; font-size: .95rem; }
ul.tree ul { border-left: 2px solid var(--line); margin: .15rem 0 .15rem .5rem; }
ul.tree ul li { padding: .15rem 0 .15rem .9rem; position: relative; }
ul.tree ul li::before { content: ""; position: absolute; left: 0; top: .95rem; width: .65rem;
  border-top: 2px solid var(--line); }
.bad { font-weight: 600; border-bottom: 2px solid var(--staged); }
.scroll { overflow-x: auto; margin: .75rem 0 .5rem; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--direct); }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
caption span { display: block; position: sticky; left: 0; max-width: min(46rem, 86vw); }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 11rem; }
thead th { background: var(--band); vertical-align: bottom; }
tbody th { font-weight: 500; background: var(--paper); }
tfoot th, tfoot td { background: var(--band); font-weight: 600; }
th[scope="row"] { position: sticky; left: 0; }
@media (max-width: 40rem) { th, td { padding: .35rem .5rem; } table { font-size: .875rem; } }
.number { text-align: right; }
thead th, tfoot th, .number { white-space: normal; }
ul.notes { color: var(--soft); font-size: .9rem; margin: .25rem 0 1.25rem; padding-left: 1.2rem; }
.figures { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: .5rem 0; }
figure svg { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: 1rem 0; padding: 0 .9rem; }
summary { cursor: pointer; font-weight: 600; padding: .65rem 0; }
pre { overflow-x: auto; background: var(--band); border-radius: .4rem; padding: .8rem;
  font-size: .85rem; line-height: 1.4; }
@media print { details { border: 0; } .scroll { overflow: visible; } }
"""


def to_html(blocks: Sequence[Block]) -> str:
    """One page that loads no other file; its title is the first heading."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = _once(_Html(blocks).text)
    return PAGE.format(title=html.escape(title), style=STYLE, body=body)


def _once(page: str) -> str:
    """The page with each glyph of its figures defined once: they are a third of a figure."""
    seen = set[str]()

    def first(definition: re.Match[str]) -> str:
        known = definition[1] in seen
        seen.add(definition[1])
        return "" if known else definition[0]

    page = re.sub(rf'<path id="({GLYPH}[^"]*)"[^>]*/>', first, page)
    return page.replace("<defs></defs>", "")


class _Html:
    """Blocks as HTML.

    Attributes:
      text: of all of them.
    """

    def __init__(self, blocks: Sequence[Block]):
        self._anchors: Counter[str] = Counter()
        self._headings = [b.text for b in blocks if isinstance(b, Heading) and b.level == 2]
        self.text = self._blocks(blocks)

    def _blocks(self, blocks: Sequence[Block]) -> str:
        parts: list[str] = []
        for before, block in zip([None, *blocks], blocks, strict=False):
            if isinstance(block, Figure) and not isinstance(before, Figure):
                parts.append('<div class="figures">\n')
            if isinstance(before, Figure) and not isinstance(block, Figure):
                parts.append("</div>\n")
            parts.append(self._block(block))
        if blocks and isinstance(blocks[-1], Figure):
            parts.append("</div>\n")
        return "".join(parts)

    def _block(self, block: Block) -> str:
        match block:
            case Heading(text, level):
                return self._heading(text, level)
            case Text(text, lead):
                tag = '<p class="lead">' if lead else "<p>"
                return f"{tag}{html.escape(text)}</p>\n"
            case Table():
                return _html_table(block)
            case Figure(svg, caption):
                caption = html.escape(caption)
                return f"<figure>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>\n"
            case Verdicts(items):
                lines = (
                    f'<li class="{_slug(verdict)}"><strong>{html.escape(verdict)}</strong>: '
                    f"{html.escape(text)}</li>\n"
                    for verdict, text in items
                )
                return f'<ul class="verdicts">\n{"".join(lines)}</ul>\n'
            case Tree():
                return f'<ul class="tree">\n{_html_tree(block)}</ul>\n'
            case Contents():
                links = (
                    f'<a href="#{_slug(text)}">{html.escape(text)}</a>' for text in self._headings
                )
                return f'<nav aria-label="Contents">{" ".join(links)}</nav>\n'
            case Code(text):
                return f'<pre tabindex="0"><code>{html.escape(text)}</code></pre>\n'
            case Folded(summary, inner):
                summary, inside = html.escape(summary), self._blocks(inner)
                return f"<details>\n<summary>{summary}</summary>\n{inside}</details>\n"

    def _heading(self, text: str, level: int) -> str:
        """One that can be linked to, but for the title; equal ones are numbered."""
        text, slug = html.escape(text), _slug(text)
        if level == 1:
            return f"<h1>{text}</h1>\n"
        self._anchors[slug] += 1
        if (count := self._anchors[slug]) > 1:
            slug = f"{slug}-{count}"
        return f'<h{level} id="{slug}"><a href="#{slug}">{text}</a></h{level}>\n'


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _html_tree(tree: Tree) -> str:
    text = html.escape(tree.text)
    text = f'<span class="bad">{text}</span>' if tree.bad else text
    inner = "".join(map(_html_tree, tree.branches))
    return f"<li>{text}{f'<ul>{inner}</ul>' if inner else ''}</li>\n"


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        path = html.escape(_url(cell.path))
        return f'<a href="{path}">{html.escape(cell.text)}</a>'
    return html.escape(cell)


def _url(path: str) -> str:
    """A relative one; a colon in the first folder's name would end the name of a protocol."""
    return "./" + urllib.parse.quote(path)


def _html_table(table: Table) -> str:
    classes = [' class="number"' if letter == "r" else "" for letter in table.align]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(name)}</th>'
        for kind, name in zip(classes, table.header, strict=True)
    )

    def cell(column: int, content: Cell) -> str:
        if column == 0:
            return f'<th scope="row">{_html_cell(content)}</th>'
        long = len(content.text if isinstance(content, Link) else content) > 28
        kind = ' class="wrap"' if long and not classes[column] else classes[column]
        return f"<td{kind}>{_html_cell(content)}</td>"

    def row(cells: Sequence[Cell]) -> str:
        return f"<tr>{''.join(cell(column, text) for column, text in enumerate(cells))}</tr>\n"

    cut = len(table.rows) - table.foot
    body = "".join(map(row, table.rows[:cut]))
    foot = "".join(map(row, table.rows[cut:]))
    caption = html.escape(table.caption)
    notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in table.notes)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">\n<table>\n'
        f"<caption><span>{caption}</span></caption>\n<thead>\n<tr>{head}</tr>\n</thead>\n"
        f"<tbody>\n{body}</tbody>\n"
        + (f"<tfoot>\n{foot}</tfoot>\n" if foot else "")
        + "</table>\n</div>\n"
        + (f'<ul class="notes">\n{notes}</ul>\n' if notes else "")
    )


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown; what HTML folds stands under a heading of its own."""
    return "\n".join(filter(None, map(_markdown_block, blocks)))


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_markdown(text)}\n"
        case Text(text, lead):
            return f"**{_markdown(text)}**\n" if lead else f"{_markdown(text)}\n"
        case Table():
            return _markdown_table(block)
        case Figure(_, caption):
            return f"Plot in report.html: {_markdown(caption)}\n"
        case Verdicts(items):
            return "".join(f"- **{_markdown(word)}**: {_markdown(text)}\n" for word, text in items)
        case Tree():
            return "".join(_markdown_tree(block))
        case Contents():
            return ""
        case Code(text):
            # The fence is longer than any run of backticks within.
            fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
            return f"{fence}\n{text}\n{fence}\n"
        case Folded(summary, inner):
            return f"### {_markdown(summary)}\n\n{to_markdown(inner)}"


def _markdown_tree(tree: Tree, depth: int = 0) -> Iterator[str]:
    text = _markdown(tree.text)
    yield f"{'  ' * depth}- {f'**{text}**' if tree.bad else text}\n"
    for branch in tree.branches:
        yield from _markdown_tree(branch, depth + 1)


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f"[{_markdown(cell.text)}](<{_url(cell.path)}>)"
    return _markdown(cell)


def _markdown_table(table: Table) -> str:
    def row(cells: Sequence[Cell]) -> str:
        return f"| {' | '.join(map(_markdown_cell, cells))} |\n"

    rule = f"| {' | '.join('---:' if letter == 'r' else '---' for letter in table.align)} |\n"
    notes = "".join(f"- {_markdown(note)}\n" for note in table.notes)
    return (
        f"{_markdown(table.caption)}\n\n{row(table.header)}{rule}{''.join(map(row, table.rows))}"
        + (f"\n{notes}" if notes else "")
    )


def _markdown(text: str) -> str:
    """Text of one line in which no character is markup."""
    text = re.sub(r"([\\`*\[\]|<>~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))", r"\\\1", text)
    return " ".join(text.split())
