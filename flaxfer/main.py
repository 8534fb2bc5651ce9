"""The command line: subcommands, logging, and exit codes of errors."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import logging
import os
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from types import ModuleType

from flaxfer import __version__
from flaxfer.config import environment
from flaxfer.config.arguments import WIDTH, Parser
from flaxfer.config.findings import suggestion
from flaxfer.config.overrides import split_overrides
from flaxfer.errors import ConfigError, FlaxferError, PreemptedError, exit_codes
from flaxfer.runtime import memory, signals
from flaxfer.subcommands import SUBCOMMANDS, Example


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code of the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    form = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, handlers=[_AboveBars()])
    logging.getLogger("flaxfer").setLevel(logging.INFO)
    if words[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if words == ["--version"]:
        print(f"flaxfer {__version__}")
        return 0
    try:
        environment.check(os.environ)
        with signals.handled(ending=arguments is None):
            module, args = parse(words)
            return int(module.run(args))
    except PreemptedError as error:
        message, code = f"{error}. Run the same command again to continue.", error.exit_code
    except FlaxferError as error:
        message, code = f"error: {error}", error.exit_code
    except (MemoryError, RuntimeError) as error:
        if not memory.is_exhausted(error):
            raise
        exhausted = memory.out_of_memory(error)
        message, code = f"error: {exhausted}", exhausted.exit_code
    with contextlib.suppress(OSError):  # The terminal may be gone.
        print(message, file=sys.stderr)
    return code


class _AboveBars(logging.Handler):
    """Prints log records without breaking the bars of a run."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        from flaxfer.runtime import bars  # Imported late: most subcommands log nothing.

        try:
            bars.log(record, self.format(record))
        except Exception:  # As logging's own handlers: a wrong record ends no run.
            self.handleError(record)


def parse(words: Sequence[str]) -> tuple[ModuleType, argparse.Namespace]:
    """Return the module of a subcommand and its arguments.

    The subcommand is `run` if the command line begins with an option. Beside the subcommand's
    arguments, the namespace has `overrides`, the pairs of key and text of `--config.KEY=TEXT`, and
    `command`, the command line quoted for a shell.

    Raises:
      ConfigError: If there is no such subcommand, or it does not take these arguments.
    """
    if not words:
        hint = "flaxfer --help lists the subcommands."
        raise ConfigError("no subcommand is given", where="command line", hint=hint)
    name, rest = ("run", words) if words[0].startswith("-") else (words[0], words[1:])
    if name not in SUBCOMMANDS:
        message, hint = f"there is no subcommand {name!r}", suggestion(name, SUBCOMMANDS)
        raise ConfigError(message, where="command line", hint=hint)
    module, parser = load(name)
    overrides, rest = split_overrides(rest)
    options = itertools.takewhile(lambda word: word != "--", rest)
    if wrong := [word for word in options if word.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    args = parser.parse_args(rest)
    if overrides and "config" not in args:
        parser.error(f"{name} takes no --config.KEY=VALUE")
    program = ["python", "-m", "flaxfer.main"] if words[0].startswith("-") else ["flaxfer"]
    args.overrides, args.command = overrides, shlex.join([*program, *words])
    return module, args


def load(name: str) -> tuple[ModuleType, Parser]:
    """Return the module of a subcommand and the parser of its arguments."""
    entry = SUBCOMMANDS[name]
    module = importlib.import_module(entry.module)
    parser = Parser(prog=f"flaxfer {name}")
    module.add_arguments(parser)
    parser.set_defaults(**entry.defaults)
    summary = f"{entry.summary[0].upper()}{entry.summary[1:]}."
    parser.description = "\n\n".join([summary, *_paragraphs(entry.details)])
    parser.epilog = "\n".join(["examples:", *map(_shown, entry.examples)])
    return module, parser


def usage() -> str:
    """Return the text that `flaxfer --help` prints."""
    subcommands = {name: entry.summary for name, entry in SUBCOMMANDS.items()}
    return f"""\
usage: flaxfer SUBCOMMAND ...
       flaxfer --version
       python -m flaxfer.main --config FILE ...   as flaxfer run

Find out whether training on an intermediate task helps, hurts, or makes no
relevant difference for a target task in another domain or another language.

subcommands:
{_table(subcommands)}

environment variables:
{_table(environment.VARIABLES)}

exit codes:
{_table({str(code): meaning for code, meaning in exit_codes().items()})}

flaxfer SUBCOMMAND --help describes a subcommand, with examples."""


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text, wrapped to the width of `--help`."""
    return [textwrap.fill(" ".join(part.split()), WIDTH) for part in text.split("\n\n")]


def _shown(example: Example) -> str:
    """Return the lines of an example, which a shell takes as they stand."""
    words = [shlex.quote(word).replace(" ", "\xa0") for word in shlex.split(example.command)]
    lines = textwrap.wrap(
        " ".join(words), WIDTH - 6, break_long_words=False, break_on_hyphens=False
    )
    return f"  # {example.purpose}\n  " + " \\\n      ".join(lines).replace("\xa0", " ")


def _table(meanings: Mapping[str, str]) -> str:
    """Return lines of names and their meanings."""
    width = max(map(len, meanings))
    lines = []
    for name, meaning in meanings.items():
        begin, rest = f"  {name:<{width}}  ", " " * (width + 4)
        lines.append(textwrap.fill(meaning, WIDTH, initial_indent=begin, subsequent_indent=rest))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
