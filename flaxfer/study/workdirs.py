"""The work directory of a study or grid, with its config and provenance."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from flaxfer.config import Config, loading
from flaxfer.config.grids import Grid
from flaxfer.errors import ConfigError
from flaxfer.runtime import platform
from flaxfer.runtime.files import write_atomically


def prepare(config: Config | Grid, command: str) -> None:
    """Create the store and the work directory, with resolved config, versions and git state.

    Raises:
      ConfigError: If a folder cannot be written.
    """
    workdir = Path(config.workdir)
    origin = {"command": command, "versions": platform.versions(), "git": git_state()}
    try:
        Path(config.stages).mkdir(parents=True, exist_ok=True)
        workdir.mkdir(parents=True, exist_ok=True)
        for name, content in (("config", loading.to_dict(config)), ("origin", origin)):
            text = json.dumps(content, indent=1, ensure_ascii=False)
            write_atomically(workdir / f"{name}.json", text)
    except OSError as error:
        raise ConfigError(
            f"the work directory cannot be written: {error}",
            where=str(workdir.absolute()),
            hint="pass another one with --config.workdir=FOLDER.",
        ) from error


def git_state() -> str:
    """Return the commit of the running code, with `-dirty` if files differ; empty if unknown."""
    try:
        finished = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):  # Without git the versions remain.
        return ""
    return finished.stdout.strip() if finished.returncode == 0 else ""
