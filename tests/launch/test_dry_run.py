"""A dry run prints its commands where nothing is installed: no Python, no cluster, no gcloud."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from tests.launch.helpers import Place

TPU = ("all", "--project=my-project", "--zone=us-west4-a", "--bucket=gs://my-bucket")
CONFIG = "--config=configs/one.py:base"


@pytest.fixture
def bare(tmp_path: Path) -> Place:
    """A checkout without an environment, on a PATH with no more than what every Unix has."""
    return Place(tmp_path, ())


def commands(dry: str) -> list[str]:
    return [shlex.split(line)[0] for line in dry.splitlines() if line and line[0] != "#"]


def test_slurm_needs_neither_an_environment_nor_a_cluster(bare: Place) -> None:
    ran = bare.run("slurm.sh", CONFIG, "--dry_run")
    assert (ran.returncode, ran.stderr) == (0, "")
    out = bare.repo / "runs" / "flaxfer"
    assert ran.stdout.splitlines()[-1] == f"sbatch {out}/job.sbatch"
    # What the real run would miss is said in comments.
    assert "# to run this: --python=.venv/bin/python: no such program" in ran.stdout
    assert "# to run this: sbatch is not on the PATH" in ran.stdout
    assert not out.exists()


@pytest.mark.parametrize("git", ["clean", "changed", "no repository", "not installed"])
def test_tpu_vm_needs_neither_gcloud_nor_a_clean_checkout(bare: Place, git: str) -> None:
    if git == "changed":
        (bare.repo / "configs" / "one.py").write_text("changed")
    elif git == "no repository":
        shutil.rmtree(bare.repo / ".git")
    elif git == "not installed":
        (bare.bin / "git").unlink()
    ran = bare.run("tpu_vm.sh", *TPU, CONFIG, "--dry_run")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "# to run this: gcloud is not on the PATH" in ran.stdout
    assert ("uncommitted changes" in ran.stdout) == (git == "changed")
    assert ("not a git checkout" in ran.stdout) == (git[:3] in ("no ", "not"))
    found = commands(ran.stdout)
    assert set(found) == {"gcloud", "git", "rm", "mkdir"} and found.count("gcloud") > 10
    assert ".git/flaxfer-launch.bundle" in ran.stdout


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("slurm.sh", (CONFIG, "--time=4h", "--dry_run"), "--time=4h: invalid time limit"),
        ("slurm.sh", ("--config=configs/none.py", "--dry_run"), "no such file"),
        ("tpu_vm.sh", (*TPU, CONFIG, "--dry_run", "--name=My_VM"), "invalid VM name"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    bare: Place, script: str, words: tuple[str, ...], message: str
) -> None:
    ran = bare.run(script, *words)
    assert ran.returncode == 2 and message in ran.stderr
