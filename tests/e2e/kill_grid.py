"""Kill a tiny grid at random times, again and again, and compare it with an undisturbed one.

python -m tests.e2e.kill_grid --kills 10 --seed 0 --folder /tmp/kill_grid

Prints the number of kills and of stages, and the studies that differ, which must be none.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path

from tests.e2e.helpers import grid_of, kill_and_resume, results_of, start_worker, write_grid_world


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--folder", type=Path, required=True, help="a new one")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True)
    write_grid_world(folder)
    whole = grid_of(folder, folder / "whole")
    # Without compiled programs on disk, most of the time would be spent on compiling.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.absolute() / "programs"))
    began = time.monotonic()
    process = start_worker(whole)
    process.communicate()
    assert process.returncode == 0
    longest = (time.monotonic() - began) / options.kills
    killed = dataclasses.replace(whole, workdir=str(folder / "killed"))
    kills = kill_and_resume(killed, options.kills, options.seed, longest)
    expected, results = results_of(whole), results_of(killed)
    differ = [name for name in expected if results[name] != expected[name]]
    stages = len({run["id"] for runs, _ in expected.values() for run in runs})
    print(f"{kills} kills, {len(expected)} studies, {stages} stages; different: {differ or 'none'}")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
