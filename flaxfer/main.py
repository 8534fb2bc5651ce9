"""The command line: a config file and overrides in, a study or a grid of them out."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence

from flaxfer.config import loading
from flaxfer.errors import ConfigError, FlaxferError
from flaxfer.tasks import TASK_TYPES

USAGE = """\
python -m flaxfer.main --config FILE[:PRESET] [--config.KEY=VALUE ...]

Runs the study of a config file, or goes on with it: intermediate task, target task, zero-shot
evaluation, direct and staged side by side, with a report. Or a grid of such studies. The same
command may be started several times, on all machines that see the work directory: each process
does what no other does.

  --config configs/sts_xling.py             the config's default preset
  --config configs/sts_xling.py:base        another preset
  --config.optimizer.learning_rate=3e-5     any field, for all stages or for one
  --config.target.train.epochs=5
  --config.targets.NAME.train.epochs=5      of a grid
  --check                                   only check the configuration
  --dry_run                                 only show what is done, what is left, and how long it
                                            may take
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a study and returns the exit code: 0, or that of the error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("flaxfer").setLevel(logging.INFO)
    try:
        parsed, overrides = parse(words)
        config = loading.load_any(parsed.config, TASK_TYPES, overrides)
        if parsed.check:
            print("the configuration is valid")
            return 0
        # Imported late: a wrong configuration is refused before JAX has started.
        from flaxfer.study import studies

        if parsed.dry_run:
            studies.show(config)
            return 0
        studies.run(config, shlex.join(["python", "-m", "flaxfer.main", *words]))
    except FlaxferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """Splits the command line into its options and the overrides (dotted key, text).

    Raises:
      ConfigError: a word that is neither.
    """
    parser = argparse.ArgumentParser(
        usage=USAGE, add_help=True, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--config", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dry_run", action="store_true", help=argparse.SUPPRESS)
    overrides, rest = loading.split_overrides(words)
    try:
        parsed, unknown = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error), where="command line", hint="see --help.") from error
    if unknown:
        raise ConfigError(
            f"cannot make sense of {shlex.join(unknown)}",
            where="command line",
            hint="overrides are written --config.KEY=VALUE; see --help.",
        )
    if not parsed.config:
        raise ConfigError(
            "no config file is named",
            where="command line",
            hint="pass --config FILE, for example --config configs/sts_xling.py.",
        )
    return parsed, overrides


if __name__ == "__main__":
    sys.exit(main())
