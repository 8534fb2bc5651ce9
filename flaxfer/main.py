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
from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from flaxfer.config import environment
from flaxfer.config.findings import suggestion
from flaxfer.config.overrides import split_overrides
from flaxfer.errors import ConfigError, FlaxferError, PreemptedError
from flaxfer.runtime import memory, signals


class Subcommand(NamedTuple):
    """A subcommand and the module that implements it.

    Attributes:
      module: Name of a module with `add_arguments(parser)` and `run(args)`, which returns an exit
        code. It is imported only for its subcommand, so that the others do not wait for JAX.
      summary: Description in `--help`.
      defaults: Arguments that differ from the module's defaults.
    """

    module: str
    summary: str
    defaults: Mapping[str, Any] = {}


SUBCOMMANDS = {
    "init": Subcommand("flaxfer.study.init", "write a config for your files"),
    "run": Subcommand("flaxfer.study.command", "run or resume a study, or a grid of studies"),
    "check": Subcommand("flaxfer.study.check", "find what a run would trip over"),
    "plan": Subcommand(
        "flaxfer.study.planning", "list stages with times, or what studies can decide"
    ),
    "report": Subcommand(
        "flaxfer.report.command", "rebuild the report of a study, or combine several"
    ),
    "list": Subcommand(
        "flaxfer.study.listing", "list the studies of a folder, with their verdicts"
    ),
    "export": Subcommand("flaxfer.interop.export", "export a finished stage for transformers"),
    "predict": Subcommand("flaxfer.interop.predict", "predict texts or pairs from a file"),
    "embed": Subcommand("flaxfer.interop.embed", "score sentence embeddings without training"),
    "convert": Subcommand("flaxfer.interop.convert", "convert pytorch_model.bin to safetensors"),
    "aot": Subcommand("flaxfer.aot.command", "compile a study's steps for another accelerator"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors as `ConfigError`.

    Options are written in full and given once.
    """

    def __init__(self, **settings: Any):
        super().__init__(**{"allow_abbrev": False} | settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what would have no effect: empty values, and all but the last of an option."""
        # The words of a subcommand of its own are left to that.
        ours = () if self._subparsers else args or ()
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

    def error(self, message: str) -> NoReturn:
        """Raise the error that argparse would print."""
        hint = f"see {self.prog} --help."
        if message.startswith("unrecognized") and " --config." in message:
            hint = "overrides are written --config.KEY=VALUE."
        raise ConfigError(message, where="command line", hint=hint)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code of the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("flaxfer").setLevel(logging.INFO)
    if words[:1] in (["-h"], ["--help"]):
        print(usage())
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
    module_name, summary, defaults = SUBCOMMANDS[name]
    module = importlib.import_module(module_name)
    parser = Parser(
        prog=f"flaxfer {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(**defaults)
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


def usage() -> str:
    """Return the text that `flaxfer --help` prints."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {entry.summary}\n" for name, entry in SUBCOMMANDS.items()]
    return f"""\
usage: flaxfer SUBCOMMAND ...
       python -m flaxfer.main --config FILE ...   as flaxfer run

{"".join(lines)}
flaxfer SUBCOMMAND --help lists the options of a subcommand."""


if __name__ == "__main__":
    sys.exit(main())
