"""The parts of the launch scripts that run elsewhere: on the TPU VM, and as a Slurm job."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.helpers import LAUNCH, Place

# Copies between folders of the VM and the folder `gs` in place of Cloud Storage.
STORAGE = r"""#!/usr/bin/env bash
here=$(dirname "$(dirname "$0")")
{ printf '%s\0' "$(basename "$0")" "$@"; echo; } >>"$here/calls"
if [ -f "$here/broken" ]; then echo "ERROR: no storage" >&2; exit 1; fi
from=${@: -2:1} to=${@: -1}
from=${from/#gs:\/\//$here/gs/} to=${to/#gs:\/\//$here/gs/}
case "$*" in
  "storage cp "*) mkdir -p "$(dirname "$to")"; cp "$from" "$to" ;;
  *--delete-unmatched*) rm -rf "$to"; cp -r "$from" "$to" ;;
  *) cp -r "$from/." "$to" ;;
esac
"""
# The study: records its arguments, writes checkpoints, and ends with the code in `wanted`.
STUDY = r"""#!/usr/bin/env bash
printf '%s\0' "$FLAXFER_CACHE" "$@" >"$HOME/words"
workdir=${!#} workdir=${workdir#--config.workdir=}
mkdir -p "$workdir/stages/a/checkpoints/2"
echo "steps $(cat "$workdir/stages/a/checkpoints/1/manifest.json" 2>/dev/null)"
rm -rf "$workdir/stages/a/checkpoints/1"
echo two >"$workdir/stages/a/checkpoints/2/manifest.json"
trap 'exit 75' TERM
touch "$HOME/ready"
until [ -f "$HOME/wanted" ]; do /bin/sleep 0.02; done
exit "$(cat "$HOME/wanted")"
"""
COPY = "gs://bucket/one"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition did not hold within 20 s"
        time.sleep(0.02)


@pytest.fixture
def vm(tmp_path: Path) -> Place:
    """The home folder of a TPU VM, with a bundle of a checkout whose setup installs STUDY."""
    place = Place(tmp_path, ("gcloud", "uv", "python3"))
    (place.bin / "gcloud").write_text(STORAGE)
    (place.bin / "sleep").symlink_to("/bin/sleep")
    tools = place.repo / "tools"
    tools.mkdir()
    (tools / "setup.sh").write_text(
        "#!/usr/bin/env bash\n"
        'cd "$(dirname "$0")/.."\n'
        'echo "$@" >"$HOME/setup-arguments"\n'
        "mkdir -p .venv/bin\n"
        "cp study .venv/bin/python\n"
    )
    (place.repo / "study").write_text(STUDY)
    for program in (tools / "setup.sh", place.repo / "study"):
        program.chmod(0o755)
    place.commit()
    place.git("bundle", "create", "--quiet", str(tmp_path / "flaxfer.bundle"), "HEAD")
    (tmp_path / "on_vm.sh").write_text((LAUNCH / "on_vm.sh").read_text())
    (tmp_path / "gs" / "bucket").mkdir(parents=True)
    return place


def on_vm(vm: Place, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "on_vm.sh", *words],
        cwd=vm.folder,
        env=vm.env(),
        capture_output=True,
        text=True,
        timeout=30,
    )


def state(vm: Place) -> str:
    return on_vm(vm, "state").stdout.strip()


def setup(vm: Place, data: str = "") -> None:
    done = on_vm(vm, "setup", "flaxfer.bundle", "3.12", "tpu,demo", COPY, data)
    assert done.returncode == 0, done.stderr


def test_a_study_on_the_vm_is_restored_runs_in_the_background_and_is_saved(vm: Place) -> None:
    saved = vm.folder / "gs" / "bucket" / "one" / "stages" / "a" / "checkpoints"
    (saved / "1").mkdir(parents=True)
    (saved / "1" / "manifest.json").write_text("one")
    (vm.folder / "gs" / "data").mkdir()
    (vm.folder / "gs" / "data" / "train.tsv").write_text("x")
    setup(vm, "gs://data")
    assert vm.calls("uv") == [["uv", "python", "install", "--quiet", "3.12"]]
    assert (vm.folder / "setup-arguments").read_text().split() == [".venv", "tpu,demo", "3.12"]
    assert (vm.folder / "flaxfer" / "data" / "train.tsv").read_text() == "x"
    assert state(vm) == "idle"

    odd = '--config.note=it\'s a "b" $c'
    assert on_vm(vm, "start", COPY, "1", "configs/my own.py", odd).returncode == 0
    until((vm.folder / "words").exists)
    assert state(vm) == "running"
    for again in (("setup", "flaxfer.bundle", "3.12", "tpu", COPY, ""), ("start", COPY, "1", "x")):
        refused = on_vm(vm, *again)
        assert refused.returncode == 2 and "already running on this VM" in refused.stderr
    workdir = vm.folder / "flaxfer-run" / "workdir"
    assert (vm.folder / "words").read_text().split("\0")[:-1] == [
        *(f"{workdir}/cache", "-m", "flaxfer", "run"),
        *("--config", "configs/my own.py", odd, f"--config.workdir={workdir}"),
    ]
    # Saved while it runs: the new checkpoint is there, the deleted one is gone.
    until(lambda: (saved / "2" / "manifest.json").exists() and not (saved / "1").exists())
    (vm.folder / "wanted").write_text("0")
    until(lambda: state(vm) == "finished")
    log = (saved.parents[2] / "launch.log").read_text()
    assert "steps one" in log and "ended with code 0" in log
    assert (saved.parents[2] / "launch.txt").exists()
    # Bucket and workdir hold the same files.
    files = [{p.relative_to(top) for p in top.rglob("*")} for top in (saved.parents[2], workdir)]
    assert files[0] == files[1]


def test_a_save_uploads_everything_before_it_deletes(vm: Place) -> None:
    setup(vm)
    (vm.folder / "calls").write_text("")
    (vm.folder / "wanted").write_text("3")
    on_vm(vm, "start", COPY, "300", "x")
    until(lambda: state(vm) == "failed 3")
    sent = ["gcloud", "storage", "rsync", "--recursive"]
    frozen = f"{vm.folder}/flaxfer-run/frozen"
    delete = "--delete-unmatched-destination-objects"
    assert vm.calls() == [[*sent, frozen, COPY], [*sent, delete, frozen, COPY]]


def test_results_that_cannot_be_saved_give_code_74(vm: Place) -> None:
    setup(vm)
    (vm.folder / "calls").write_text("")
    (vm.folder / "broken").write_text("")
    (vm.folder / "wanted").write_text("0")
    on_vm(vm, "start", COPY, "300", "x")
    until(lambda: state(vm) == "failed 74")
    # The upload failed twice; nothing was deleted.
    assert [len(call) for call in vm.calls()] == [6, 6]
    assert "could not be saved" in on_vm(vm, "log").stdout


def test_a_stopped_vm_saves_its_study_and_gives_code_75(vm: Place) -> None:
    setup(vm)
    on_vm(vm, "start", COPY, "300", "x")
    until((vm.folder / "flaxfer-run/workdir/stages/a/checkpoints/2/manifest.json").exists)
    pid = int((vm.folder / "flaxfer-run" / "notes" / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: state(vm) == "failed 75")
    assert (vm.folder / "gs/bucket/one/stages/a/checkpoints/2/manifest.json").exists()
    # Killed without a signal, as by a reboot of the VM, it leaves no code.
    (vm.folder / "flaxfer-run" / "notes" / "code").unlink()
    assert state(vm) == "lost"


@pytest.fixture
def cluster(tmp_path: Path) -> Place:
    place = Place(tmp_path, ("sbatch", "scontrol"))
    (place.repo / ".venv" / "bin").mkdir(parents=True)
    (place.repo / ".venv" / "bin" / "python").write_text(STUDY)
    (place.repo / ".venv" / "bin" / "python").chmod(0o755)
    return place


CONFIG = "--config=configs/one.py:base"


def job(place: Place, *words: str) -> Path:
    ran = place.run("slurm.sh", *words)
    assert ran.returncode == 0, ran.stderr
    return place.repo / "runs" / "flaxfer" / "job.sbatch"


def run_job(
    place: Place, script: Path, stop: signal.Signals | None = None, **more: str
) -> tuple[int, str]:
    """Run a job, which gets a signal before its end."""
    env = {**place.env(), "SLURM_JOB_ID": "41", **more}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(["bash", script], env=env, **pipes) as job:
        if stop:
            until((place.folder / "ready").exists)
            (place.folder / "ready").unlink()
            job.send_signal(stop)
        errors = job.communicate(timeout=20)[1]
    return job.returncode, errors


def test_a_submitted_job_has_its_settings(cluster: Place) -> None:
    script = job(cluster, CONFIG, "--gpus=2", "--partition=gpu", "--account=me", "--before=true x")
    assert cluster.calls("sbatch") == [["sbatch", str(script)]]
    text = script.read_text()
    assert [line[8:] for line in text.splitlines() if line.startswith("#SBATCH")] == [
        *("--job-name=flaxfer", "--nodes=1", "--ntasks=1", "--cpus-per-task=8", "--mem=32G"),
        *("--time=04:00:00", "--open-mode=append", "--requeue", "--signal=B:USR1@120"),
        *("--gpus-per-node=2", "--partition=gpu", "--account=me"),
        f"--output={script.parent}/log-%j.txt",
    ]
    assert "\ntrue x\n" in text
    dry = cluster.run(
        "slurm.sh", CONFIG, "--gpus=2", "--partition=gpu", "--account=me", "--dry_run"
    )
    assert cluster.calls("sbatch") == []
    # A shell that runs the output of the dry run does what the real run does.
    script.unlink()
    subprocess.run(["bash", "-c", dry.stdout], env=cluster.env(), check=True)
    assert script.read_text() == text.replace("true x\n", "\n")
    assert cluster.calls("sbatch") == [["sbatch", str(script)]]


def test_an_array_runs_every_pair_of_config_and_override(cluster: Place) -> None:
    (cluster.repo / "configs" / "my own.py").write_text("")
    odd = "--config.note=it's $HOME"
    script = job(
        cluster, CONFIG, "--config=configs/my own.py", "--each=seeds=0,", "--each=seeds=1,", odd
    )
    assert "#SBATCH --array=0-3\n" in script.read_text()
    assert "/log-%A_%a.txt\n" in script.read_text()
    (cluster.folder / "wanted").write_text("0")
    expected = [
        (config, f"--config.seeds={seed},")
        for config in ("configs/one.py:base", "configs/my own.py")
        for seed in (0, 1)
    ]
    for task, (config, seed) in enumerate(expected):
        assert run_job(cluster, script, SLURM_ARRAY_TASK_ID=str(task)) == (0, "")
        out = f"{script.parent}/{task}"
        assert (cluster.folder / "words").read_text().split("\0")[:-1] == [
            *(f"{out}/cache", "-m", "flaxfer", "run", "--config", config, odd, seed),
            f"--config.workdir={out}",
        ]


def test_a_job_is_requeued_only_if_it_was_stopped(cluster: Place) -> None:
    script = job(cluster, CONFIG, "--max_requeues=3")
    assert run_job(cluster, script, stop=signal.SIGUSR1) == (75, "")
    part = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "0"}
    assert run_job(cluster, script, stop=signal.SIGUSR1, **part) == (75, "")
    requeued = [["scontrol", "requeue", "41"], ["scontrol", "requeue", "40_0"]]
    assert cluster.calls("scontrol") == requeued
    code, errors = run_job(cluster, script, stop=signal.SIGUSR1, SLURM_RESTART_COUNT="3")
    assert code == 75 and "already requeued 3 times" in errors
    # Cancelled, or preempted: Slurm itself requeues it then.
    assert run_job(cluster, script, stop=signal.SIGTERM) == (75, "")
    for code in (0, 3, 75, 130, 143):
        (cluster.folder / "wanted").write_text(str(code))
        assert run_job(cluster, script) == (code, "")
    assert cluster.calls("scontrol") == requeued


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--config: missing"),
        (("--config=configs/none.py",), "no such file"),
        ((CONFIG, "--name=a b"), "--name=a b: invalid job name"),
        ((CONFIG, "--time=4h"), "--time=4h: invalid time limit"),
        ((CONFIG, "--memory=lots"), "--memory=lots: invalid amount"),
        ((CONFIG, "--gpus=-1"), "--gpus=-1: not a positive integer"),
        ((CONFIG, "--partition=a b"), "'a b': invalid partition"),
        ((CONFIG, "--python=none"), "--python=none: no such program"),
        ((CONFIG, "--out=/my results"), "--out=/my results: Slurm cannot"),
        ((CONFIG, "--each=seeds"), "--config.seeds: not an override"),
        ((CONFIG, "--nodes=2"), "--nodes=2: no such flag"),
    ],
)
def test_invalid_input_is_refused_before_any_command(
    cluster: Place, words: tuple[str, ...], message: str
) -> None:
    ran = cluster.run("slurm.sh", *words)
    assert (ran.returncode, cluster.calls("sbatch")) == (2, [])
    assert message in ran.stderr and "Hint: " in ran.stderr
    assert not (cluster.repo / "runs").exists()


def test_a_failed_sbatch_gives_its_code(cluster: Place) -> None:
    cluster.fails("job.sbatch", 5, "sbatch: error: invalid partition")
    ran = cluster.run("slurm.sh", CONFIG)
    assert ran.returncode == 5
    assert "sbatch: error: invalid partition" in ran.stderr
    assert f"failed with code 5: sbatch {shlex.quote(str(cluster.repo))}" in ran.stderr
