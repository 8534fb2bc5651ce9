"""Kills a tiny grid at random times, again and again, and compares it with one that ran through.

python -m tests.e2e.kill_grid --kills 10 --seed 0 --folder /tmp/kill_grid

Prints the number of kills and of stages, and what differs, which must be nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

from tests.e2e.test_grid import grid_of, kill_and_resume, process_of, results_of, write_world


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--folder", type=Path, required=True, help="a new one")
    options = parser.parse_args()
    world: Path = options.folder
    write_world(world)
    whole = grid_of(world, world / "whole")
    began = time.monotonic()
    process = process_of(whole, world, "whole")
    process.communicate()
    assert process.returncode == 0
    killed = dataclasses.replace(whole, workdir=str(world / "killed"))
    longest = time.monotonic() - began
    kills = kill_and_resume(
        killed, world, "whole", options.kills, options.seed, longest / options.kills
    )
    wanted, found = results_of(whole), results_of(killed)
    differ = [name for name in wanted if found[name] != wanted[name]]
    stages = len({run["id"] for runs, _ in wanted.values() for run in runs})
    print(f"{kills} kills, {len(wanted)} studies, {stages} stages; different: {differ or 'none'}")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
