"""The subcommand `run`."""

from __future__ import annotations

import argparse

from flaxfer.config import loading
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add a config file, with or without `--config`."""
    parser.usage = f"{parser.prog} [--config] FILE[:PRESET] [--config.KEY=VALUE ...]"
    group = parser.add_mutually_exclusive_group(required=True)
    what = "a config file in Python, YAML or TOML; a preset of a Python file"
    # Both are `config`: the positional argument sets nothing if it is not there.
    group.add_argument(
        "config", nargs="?", default=argparse.SUPPRESS, metavar="FILE[:PRESET]", help=what
    )
    group.add_argument("--config", metavar="FILE[:PRESET]", help=what)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    add_config(parser)
    parser.add_argument(
        "--replace",
        action="store_true",
        help="move the records of another configuration in the work directory to its folder "
        "'replaced', instead of refusing to run",
    )
    parser.add_argument(
        "--check",
        nargs="?",
        const="data",
        choices=("data", "config"),
        help="as flaxfer check; 'config' checks the settings alone",
    )
    parser.add_argument("--dry-run", action="store_true", help="as flaxfer plan")


def run(args: argparse.Namespace) -> int:
    """Run a study or a grid, check its configuration, or print its plan."""
    if args.check and args.dry_run:
        what, hint = "check and plan exclude each other", "run one after the other."
        raise ConfigError(what, where="command line", hint=hint)
    if args.check:
        from flaxfer.study import check

        return check.run(args)
    config = loading.load_any(args.config, TASK_TYPES, args.overrides)
    # Imported late, so that a wrong configuration is refused before JAX is imported.
    from flaxfer.study import runner

    if args.dry_run:
        runner.show(config)
    else:
        runner.run(config, args.command, args.replace)
    return 0
