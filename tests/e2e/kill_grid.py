"""Kill a tiny grid at random times, and compare it with one that was not killed.

    python -m tests.e2e.kill_grid --kills 10 --seed 0 --folder /tmp/kill_grid

Prints the number of kills and of stages, and the studies that differ, which must be none.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

from tests.e2e.helpers import kill_and_resume, start_process, write_config
from tests.e2e.test_grid import grid_of, results_of, write_world


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--folder", type=Path, required=True, help="a new one")
    options = parser.parse_args()
    world: Path = options.folder
    write_world(world)
    whole = grid_of(world, world / "whole")
    began = time.monotonic()
    process = start_process(write_config(world / "whole.py", whole))
    process.communicate()
    assert process.returncode == 0
    killed = dataclasses.replace(whole, workdir=str(world / "killed"))
    file = write_config(world / "killed.py", killed)
    longest = (time.monotonic() - began) / options.kills
    kills = kill_and_resume(file, Path(killed.stages), options.kills, options.seed, longest)
    expected, results = results_of(whole), results_of(killed)
    different = [name for name in expected if results[name] != expected[name]]
    stages = len({run["id"] for runs, _ in expected.values() for run in runs})
    print(f"{kills} kills, {len(expected)} studies, {stages} stages; different: {different}")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
