"""A process that runs a pickled study or grid, once a number of such processes are ready.

python -m tests.e2e.worker WORKDIR NUMBER
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path

import jax

from flaxfer.study import runner
from tests.e2e.helpers import quickly


def main(workdir: str, number: str) -> None:
    config = pickle.loads((Path(workdir) / "config.pickle").read_bytes())
    jax.devices()  # Starts the devices, which takes a while.
    (Path(workdir) / f"ready-{os.getpid()}").touch()
    while len(list(Path(workdir).glob("ready-*"))) < int(number):
        time.sleep(0.01)
    with quickly():
        runner.run(config, "the command")


if __name__ == "__main__":
    main(*sys.argv[1:])
