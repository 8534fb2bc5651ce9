"""The subcommands `run`, `check` and `plan`."""

from __future__ import annotations

import argparse

from flaxfer.config import loading, seeds
from flaxfer.errors import ConfigError
from flaxfer.tasks import TASK_TYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`, `check` and `plan`."""
    parser.usage = f"{parser.prog} --config FILE[:PRESET] [--config.KEY=VALUE ...] [options]"
    parser.add_argument("--config", required=True, metavar="FILE[:PRESET]", help="a config file")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="move the records of another configuration in the work directory to its folder "
        "'replaced', instead of refusing to run",
    )
    parser.add_argument("--check", action="store_true", help="as flaxfer check")
    parser.add_argument("--dry-run", action="store_true", help="as flaxfer plan")


def run(args: argparse.Namespace) -> int:
    """Run a study or a grid, check its configuration, or print its plan."""
    if args.check and args.dry_run:
        what, hint = "check and plan exclude each other", "run one after the other."
        raise ConfigError(what, where="command line", hint=hint)
    config = loading.load_any(args.config, TASK_TYPES, args.overrides)
    if args.check:
        print("the configuration is valid")
        if config.looks:
            print(f"seeds: {seeds.describe(config.seeds)}")
        return 0
    # Imported late, so that a wrong configuration is refused before JAX is imported.
    from flaxfer.study import runner

    if args.dry_run:
        runner.show(config)
    else:
        runner.run(config, args.command, args.replace)
    return 0
