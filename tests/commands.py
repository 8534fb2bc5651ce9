"""Commands of the documents, as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GUIDES = tuple(
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if "paper-local" not in path.parts  # The report of a run by an earlier version.
)
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "BENCHMARKS.md", "launch/README.md", *GUIDES)
PROGRAMS = r"(?:flaxfer|make|pip|gcloud|squeue|scancel|sbatch|(?:\S*/)?python|tools/\S+|launch/\S+)"
FENCED = re.compile(r"^ *```([\w{}-]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


class Command(NamedTuple):
    """A command line without its comment, and the document that it stands in."""

    text: str
    document: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def commands_of(document: str) -> list[Command]:
    """Return the commands of a document: the lines of its shell blocks, and inline ones.

    Inline code is a command if it begins with a program and has arguments.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for language, block in FENCED.findall(text):
        if language in ("", "sh", "bash"):
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            found += [re.sub(r"\s+# .*", "", line.strip()) for line in lines]
    for code in INLINE.findall(FENCED.sub("", text)):
        if re.match(rf"{PROGRAMS} \S", code) or code == ".ci/run":
            found.append(code)
    return [Command(line, document) for line in dict.fromkeys(found) if line]


def settings_of(document: str) -> list[str]:
    """Return settings that a document shows, as `KEY=VALUE`."""
    text = FENCED.sub("", (ROOT / document).read_text(encoding="utf-8"))
    found = [re.fullmatch(r"(?:--config\.)?([a-z_][\w.]*=[^=].*)", c) for c in INLINE.findall(text)]
    return [match[1] for match in found if match]


def python_of(document: str) -> dict[str, str]:
    """Return the Python code that a document shows, by the file name in its first line.

    Code without a file name is called by its number.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = [block for language, block in FENCED.findall(text) if language == "python"]
    found = {}
    for i, block in enumerate(blocks):
        match = re.match(r"# (\w+\.py)\n", block)
        found[match[1] if match else f"{i}"] = block
    return found


COMMANDS = [command for document in DOCUMENTS for command in commands_of(document)]
