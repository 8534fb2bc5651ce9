"""The subcommand `report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from flaxfer.errors import ConfigError
from flaxfer.report import terminal
from flaxfer.report.data import read_report_data
from flaxfer.report.writing import write
from flaxfer.runtime.bars import doing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flaxfer report`."""
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="folder of a study or grid"
    )
    parser.add_argument(
        "--descriptive",
        action="store_true",
        help="add statistics that papers report, on which no verdict depends: multi-bootstrap, "
        "probability of improvement, almost stochastic order",
    )
    parser.add_argument(
        "--no-examples",
        action="store_true",
        help="leave out single examples, whose texts the licence of a data set may not let you "
        "publish",
    )
    parser.add_argument("--output", type=Path, help="folder of the report; DIR if there is one")


def run(args: argparse.Namespace) -> int:
    """Write a report, and print its result and the paths of its files."""
    if len({folder.resolve() for folder in args.folders}) < len(args.folders):
        raise ConfigError(
            "a folder is given twice", where="command line", hint="name every study once."
        )
    if len(args.folders) > 1 and args.output is None:
        raise ConfigError(
            "a report of several folders needs an output folder",
            where="command line",
            hint="add --output FOLDER.",
        )
    output = args.output or args.folders[0]
    with doing("comparing the conditions and writing the report"):
        data = read_report_data(args.folders, output, args.descriptive, not args.no_examples)
        paths = write(data)
    terminal.show_result(data)
    print(*paths, sep="\n")
    return 0
