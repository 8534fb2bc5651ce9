"""Settings of the documentation, which Sphinx builds with `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import pages

from flaxfer import __version__

project, author, version = "flaxfer", "The flaxfer authors", __version__
copyright = author  # Sphinx reads this name.
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["controls", "paper-local", "xtreme_r"]
html_theme, html_title = "furo", f"flaxfer {version}"
html_copy_source = html_show_copyright = False
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
# Names of attributes become references, of which short ones have several targets.
suppress_warnings = ["ref.python"]
napoleon_use_rtype = False

CODE = re.compile(r"(``.+?``|`[^`]+`|\*\*[^*]+\*\*)", re.DOTALL)
"""What Markdown and reStructuredText write nearly alike."""


def to_restructured_text(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Rewrite a docstring, whose code is quoted as in Markdown, before napoleon reads it."""
    parts = CODE.split("\n".join(lines))
    for i, part in enumerate(parts):
        if i % 2 == 0:  # Between code.
            parts[i] = re.sub(r"([\\*|])|(?<=\w)(_)(?!\w)", r"\\\1\2", part)
        elif part.startswith("`"):
            letter_follows = re.match(r"\w", parts[i + 1])
            parts[i] = f"``{part.strip('`')}``" + ("\\ " if letter_follows else "")
    lines[:] = "".join(parts).split("\n")


def is_left_out(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples, whose classes describe them."""
    return True if str(thing.__doc__).startswith("Alias for field number") else None


def generate(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append to a page what the code says about itself."""
    if docname in pages.GENERATED:
        source[0] += pages.GENERATED[docname]()


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("autodoc-process-docstring", to_restructured_text, priority=400)
    app.connect("autodoc-skip-member", is_left_out)
    app.connect("source-read", generate, priority=400)
