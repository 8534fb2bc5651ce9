"""Settings as Python source that `ruff format` leaves as it is."""

from __future__ import annotations

import dataclasses
import keyword
import textwrap
from typing import Any

WIDTH = 100
"""Characters of a line."""


@dataclasses.dataclass(frozen=True)
class Code:
    """An expression that is written as it is."""

    text: str


@dataclasses.dataclass
class Section:
    """A call of `dict`.

    Attributes:
      items: Values by name.
      comments: Comments that stand above items, by name.
      spread: Name of a dict whose items come last; empty for none.
    """

    items: dict[str, Any] = dataclasses.field(default_factory=dict)
    comments: dict[str, str] = dataclasses.field(default_factory=dict)
    spread: str = ""


def render(value: Any, used: int = 0, indent: int = 0) -> str:
    """Return the source of a value.

    Args:
      value: A literal, tuple, dict, `Section` or `Code`.
      used: Characters of the line before it.
      indent: Blanks that the line begins with.
    """
    text = _on_a_line(value)
    if text and used + len(text) + 1 <= WIDTH:
        return text
    margin = " " * (indent + 4)
    lines: list[str] = []

    def add(before: str, item: Any) -> None:
        source = render(item, len(margin) + len(before), indent + 4)
        lines.append(f"{margin}{before}{source},")

    if isinstance(value, tuple):
        for item in value:
            add("", item)
        brackets = "()"
    elif isinstance(value, Section):
        for name, item in value.items.items():
            if comment := value.comments.get(name):
                wrapped = textwrap.wrap(comment, WIDTH - len(margin) - 2)
                lines += [f"{margin}# {line}" for line in wrapped]
            add(f"{name}=", item)
        if value.spread:
            lines.append(f"{margin}**{value.spread},")
        brackets = "dict()"
    elif isinstance(value, dict):
        plain = _are_names(value)
        for key, item in value.items():
            add(f"{key}=" if plain else f"{_text(key)}: ", item)
        brackets = "dict()" if plain else "{}"
    else:
        return text
    return "\n".join([brackets[:-1], *lines, " " * indent + brackets[-1]])


def _on_a_line(value: Any) -> str:
    """Return the source of a value on one line; empty if it has comments."""
    match value:
        case Code(text):
            return text
        case Section(items, comments, spread):
            parts = [(name, _on_a_line(item)) for name, item in items.items()]
            if comments or not all(text for _, text in parts):
                return ""
            words = [f"{name}={text}" for name, text in parts]
            return f"dict({', '.join([*words, *([f'**{spread}'] if spread else [])])})"
        case dict():
            parts = [(key, _on_a_line(item)) for key, item in value.items()]
            if not all(text for _, text in parts):
                return ""
            if _are_names(value):
                return f"dict({', '.join(f'{key}={text}' for key, text in parts)})"
            return f"{{{', '.join(f'{_text(key)}: {text}' for key, text in parts)}}}"
        case tuple():
            words = [_on_a_line(item) for item in value]
            return f"({', '.join(words)}{',' * (len(words) == 1)})" if all(words) else ""
    return _text(value)


def _are_names(value: dict[Any, Any]) -> bool:
    return all(
        isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value
    )


def _text(value: Any) -> str:
    """Return the source of a literal, with double quotes if they need no more escapes."""
    if not isinstance(value, str):
        return repr(value)
    source = repr(value)
    if source[0] == '"' or value.count('"') > value.count("'"):
        return source
    inner = source[1:-1].replace("\\'", "'").replace('"', '\\"')
    return f'"{inner}"'
