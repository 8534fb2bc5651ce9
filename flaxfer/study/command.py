"""The subcommand `run`."""

from __future__ import annotations

import argparse
import logging

from flaxfer.config import loading
from flaxfer.config.arguments import add_config
from flaxfer.errors import ConfigError
from flaxfer.runtime.bars import doing
from flaxfer.runtime.progress import set_quiet
from flaxfer.tasks import TASK_TYPES


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
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print only warnings, errors, and at the end the verdict and the path of the report",
    )


def run(args: argparse.Namespace) -> int:
    """Run a study or a grid, check its configuration, or print its plan."""
    if args.check and args.dry_run:
        what, hint = "check and plan exclude each other", "run one after the other."
        raise ConfigError(what, where="command line", hint=hint)
    if args.check:
        from flaxfer.study import check

        return check.run(args)
    config = loading.load_any(args.config, TASK_TYPES, args.overrides)
    set_quiet(args.quiet)
    if args.quiet:
        logging.getLogger("flaxfer").setLevel(logging.WARNING)
    # Imported late, so that a wrong configuration is refused before JAX is imported.
    with doing("importing JAX"):
        from flaxfer.study import runner

    if args.dry_run:
        runner.show(config)
    else:
        runner.run(config, args.command, args.replace)
    return 0
