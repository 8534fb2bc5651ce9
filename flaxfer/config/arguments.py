"""A parser of the arguments of a subcommand."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from flaxfer.errors import ConfigError

WIDTH = 80
"""Columns of `--help`."""


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=WIDTH)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors as `ConfigError`.

    Options are written in full and given once. They are spelt with dashes, for which underscores
    are accepted.
    """

    def __init__(self, **settings: Any):
        defaults: dict[str, Any] = {"allow_abbrev": False, "formatter_class": _formatter}
        super().__init__(**defaults | settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what would have no effect: empty values, and all but the last of an option."""
        # The words of a subcommand of its own are left to that.
        if not self._subparsers:
            args = self._dashed(sys.argv[1:] if args is None else args)
        ours = () if self._subparsers else args
        words = list(itertools.takewhile(lambda word: word != "--", ours))
        options = [self._option_string_actions.get(word.partition("=")[0]) for word in words]
        for option, number in Counter(options).items():
            if option is not None and number > 1:
                self.error(f"{'/'.join(option.option_strings)} is given twice")
        for word, option, before in zip(words, options, [None, *options], strict=False):
            named = before if option is None else option
            is_empty = not word or (option is not None and word.endswith("="))
            if is_empty and (named is None or "" not in (named.default, named.const)):
                self.error(f"the value of {word.rstrip('=') or 'an argument'} is empty")
        return super().parse_known_args(args, namespace)

    def _dashed(self, words: Sequence[str]) -> list[str]:
        """Return the words with the options among them spelt with dashes."""
        end = list(words).index("--") if "--" in words else len(words)
        dashed = []
        for word in words[:end]:
            name, equals, value = word.partition("=")
            spelling = name.replace("_", "-")
            is_option = name.startswith("--") and spelling in self._option_string_actions
            dashed.append(f"{spelling}{equals}{value}" if is_option else word)
        return [*dashed, *words[end:]]

    def error(self, message: str) -> NoReturn:
        """Raise the error that argparse would print."""
        hint = f"see {self.prog} --help."
        if message.startswith("unrecognized") and " --config." in message:
            hint = "overrides are written --config.KEY=VALUE."
        raise ConfigError(message, where="command line", hint=hint)


def add_config(parser: argparse.ArgumentParser, options: str = "[--config.KEY=VALUE ...]") -> None:
    """Add a config file, with or without `--config`; `options` ends the usage."""
    parser.usage = f"{parser.prog} [--config] FILE[:PRESET] {options}"
    group = parser.add_mutually_exclusive_group(required=True)
    what = "a config file in Python, YAML or TOML; a preset of a Python file"
    # Both are `config`: the positional argument sets nothing if it is not there.
    group.add_argument(
        "config", nargs="?", default=argparse.SUPPRESS, metavar="FILE[:PRESET]", help=what
    )
    group.add_argument("--config", metavar="FILE[:PRESET]", help=what)
