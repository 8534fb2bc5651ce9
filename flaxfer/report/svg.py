"""SVG elements from matplotlib, made small for a page that holds many of them."""

from __future__ import annotations

import re
from collections.abc import Callable

_TAG = re.compile(r"<[^<>]*>")
_STYLE = re.compile(r' style="([^"]*)"')
_ID = re.compile(r'(\bid="|href="#|url\(#)([^")]+)')
_NAMESPACE = ' xmlns="http://www.w3.org/2000/svg" version="1.1"'
_DIGITS = re.compile(r"(scale\([^)]*\))|-?\d+\.\d{4,}")


def compact(svg: str) -> str:
    """Return the element of an SVG document without what a page does not need.

    That is: the prolog, comments, metadata, style sheet, ids of groups, names of fonts, rotations
    by nothing, whitespace, and digits beyond a thousandth of a point.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _without_bare_groups(re.sub(r">\s+<", "><", _in_tags(svg, _compact_tag)))
    return re.sub(r'<path d="[^"]*" style="fill: none"/>', "", svg)  # The invisible background.


def _without_bare_groups(svg: str) -> str:
    """Return the element without groups that have no attributes, which have no effect."""
    bare = list[bool]()

    def kept(match: re.Match[str]) -> str:
        tag = match[0]
        if tag.startswith("<g") and not tag.endswith("/>"):
            bare.append(tag == "<g>")
            return "" if bare[-1] else tag
        return "" if tag == "</g>" and bare.pop() else tag

    return re.sub(r"</?g\b[^<>]*>", kept, svg)


def _compact_tag(tag: str) -> str:
    tag = re.sub(r'^<g id="[^"]*"', "<g", " ".join(tag.split()))
    tag = re.sub(r"font-family: [^;\"]*(; )?", "", tag)
    tag = re.sub(r' transform="rotate\(-?0[ )][^"]*"', "", tag)
    tag = tag.replace("xlink:href", "href").replace(
        ' xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    )
    return _DIGITS.sub(
        lambda match: match[1] or f"{float(match[0]):.3f}".rstrip("0").rstrip("."), tag
    )


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """Change the tags alone: texts, which hold names from data, contain no angle brackets."""
    return _TAG.sub(lambda match: change(match[0]), svg)


def _dense(tag: str) -> str:
    """Return the tag of a path without the spaces around the commands M and L."""
    return re.sub(r" ?([ML]) ", r"\1", tag) if tag.startswith("<path") else tag


class Page:
    """Elements of one page, with ids that are unique in it and with shared classes for styles.

    Attributes:
      classes: Names of the classes by style.
    """

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}
        self._figures = 0

    def add(self, svg: str) -> str:
        """Return the element as it stands on the page."""
        self._figures += 1
        number, names = self._figures, dict[str, str]()

        def renamed(match: re.Match[str]) -> str:
            return f"{match[1]}{names.setdefault(match[2], f'f{number}-{len(names)}')}"

        def classed(match: re.Match[str]) -> str:
            return f' class="{self.classes.setdefault(match[1], f"s{len(self.classes)}")}"'

        svg = svg.replace(_NAMESPACE, "", 1)  # HTML does not need it.
        return _in_tags(svg, lambda tag: _STYLE.sub(classed, _ID.sub(renamed, _dense(tag))))

    @property
    def style(self) -> str:
        """The style sheet of the classes."""
        return "\n".join(f".{name}{{{style}}}" for style, name in self.classes.items())
