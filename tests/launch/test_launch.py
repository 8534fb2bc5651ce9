"""The launch scripts, with recorders in place of gcloud and sbatch."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.launch.helpers import Place

BASE = ("--project=my-project", "--zone=us-west4-a")
STUDY = ("--bucket=gs://my-bucket", "--config=configs/one.py:base")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, ("gcloud", "sbatch", "scontrol", "sleep"))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place for tests that change nothing."""
    return Place(tmp_path_factory.mktemp("place"), ("gcloud", "sbatch"))


def tpu(*words: str) -> list[str]:
    return ["gcloud", "compute", "tpus", *words, *BASE, "--quiet"]


CREATED = tpu(
    "queued-resources",
    "create",
    "flaxfer",
    "--node-id=flaxfer",
    "--runtime-version=v2-alpha-tpuv5-lite",
    "--accelerator-type=v5litepod-8",
    "--labels=made_by=flaxfer",
)
CHECKED = [
    tpu("queued-resources", "describe", "flaxfer", "--format=value(state.state)"),
    tpu("tpu-vm", "describe", "flaxfer", "--format=value(state)"),
]
STUDY_STATE = tpu(
    "tpu-vm",
    "ssh",
    "flaxfer",
    "--worker=all",
    "--command=if [ -f on_vm.sh ]; then bash on_vm.sh state; else echo idle; fi",
)
BUNDLE = ".git/flaxfer-launch.bundle"
STARTED = [
    tpu("tpu-vm", "scp", BUNDLE, "flaxfer:flaxfer.bundle", "--worker=all"),
    tpu("tpu-vm", "scp", "launch/on_vm.sh", "flaxfer:on_vm.sh", "--worker=all"),
    tpu(
        "tpu-vm",
        "ssh",
        "flaxfer",
        "--worker=all",
        "--command=bash on_vm.sh setup flaxfer.bundle 3.12 tpu gs://my-bucket/flaxfer ''",
    ),
    tpu(
        "tpu-vm",
        "ssh",
        "flaxfer",
        "--worker=all",
        "--command=bash on_vm.sh start gs://my-bucket/flaxfer 300 configs/one.py:base",
    ),
]
FETCHED = [
    *("gcloud", "storage", "rsync", "--recursive", "--exclude=^cache/.*"),
    *("gs://my-bucket/flaxfer", "runs/flaxfer"),
]
DELETED = [
    tpu(
        *("queued-resources", "describe", "flaxfer"),
        "--format=value(tpu.nodeSpec[0].node.labels.made_by)",
    ),
    tpu("queued-resources", "delete", "flaxfer", "--force"),
]


def commands(dry: str) -> list[list[str]]:
    return [shlex.split(line) for line in dry.splitlines() if not line.startswith("#")]


def test_all_runs_its_commands_in_order_as_the_dry_run_prints_them(place: Place) -> None:
    place.answers("study", "idle", "running", "finished")
    ran = place.run("tpu_vm.sh", "all", *BASE, *STUDY)
    assert ran.returncode == 0, ran.stderr
    watched = [*CHECKED, STUDY_STATE]
    assert place.calls() == [
        *(CREATED, *CHECKED),
        *(*watched, *STARTED, *watched, *watched),
        FETCHED,
        *DELETED,
    ]
    assert place.calls("sleep") == [["sleep", "60"]] * 2
    # The bundle holds the last commit.
    clone = place.folder / "clone"
    subprocess.run(
        ["git", "clone", "--quiet", place.folder / "copied-flaxfer-launch.bundle", clone],
        check=True,
    )
    assert (clone / "configs" / "one.py").exists()
    assert not (place.repo / BUNDLE).exists()

    place.answers("study", "idle", "finished")
    place.run("tpu_vm.sh", "all", *BASE, *STUDY)
    real = place.calls()
    dry = place.run("tpu_vm.sh", "all", *BASE, *STUDY, "--dry_run")
    assert place.calls() == []
    assert [call for call in commands(dry.stdout) if call[0] == "gcloud"] == real
    assert [call for call in commands(dry.stdout) if call[0] != "gcloud"] == [
        ["git", "bundle", "create", "--quiet", BUNDLE, "HEAD"],
        ["rm", "-f", BUNDLE],
        ["mkdir", "-p", "runs/flaxfer"],
    ]


@pytest.mark.parametrize("command", ["create", "setup", "run", "watch", "fetch", "delete"])
@pytest.mark.parametrize("more", [(), ("--direct", "--spot", "--delete_results")])
def test_the_dry_run_of_a_command_prints_what_it_runs(
    place: Place, command: str, more: tuple[str, ...]
) -> None:
    place.answers("study", "idle", "finished")
    words = (command, *BASE, *STUDY, *more)
    assert place.run("tpu_vm.sh", *words).returncode == 0
    real = place.calls()
    dry = place.run("tpu_vm.sh", *words, "--dry_run")
    assert place.calls() == []
    assert [call for call in commands(dry.stdout) if call[0] == "gcloud"] == real != []


def test_a_preempted_vm_is_recreated_and_its_study_resumed(place: Place) -> None:
    place.answers("queued", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "PROVISIONING", "ACTIVE")
    place.answers("study", "idle", "running", "idle", "finished")
    ran = place.run("tpu_vm.sh", "watch", *BASE, *STUDY, "--poll_seconds=7")
    assert ran.returncode == 0, ran.stderr
    watched = [*CHECKED, STUDY_STATE]
    assert place.calls() == [
        *(*watched, *STARTED, *watched),
        *(CHECKED[0], CHECKED[0], *DELETED, CREATED),
        *(CHECKED[0], *watched, *STARTED, *watched),
    ]
    assert place.calls("sleep") == [["sleep", "7"]] * 6
    # The dry run prints the commands after a preemption as comments.
    dry = place.run("tpu_vm.sh", "watch", *BASE, *STUDY, "--dry_run").stdout
    shown = [line[2:].strip() for line in dry.splitlines() if line.startswith("#   gcloud")]
    assert [shlex.split(line) for line in shown] == [*DELETED, CREATED]


def test_a_preempted_spot_vm_is_recreated_without_queue(place: Place) -> None:
    place.answers("node", "READY", "PREEMPTED", "READY")
    place.answers("study", "running", "idle", "finished")
    ran = place.run("tpu_vm.sh", "watch", *BASE, *STUDY, "--direct", "--spot")
    assert ran.returncode == 0, ran.stderr
    changes = [call[3:6] for call in place.calls() if call[4] in ("delete", "create")]
    assert changes == [["tpu-vm", "delete", "flaxfer"], ["tpu-vm", "create", "flaxfer"]]
    (created,) = [call for call in place.calls() if call[4] == "create"]
    assert "--spot" in created and "--version=v2-alpha-tpuv5-lite" in created


def test_a_stopped_study_is_resumed_a_limited_number_of_times(place: Place) -> None:
    place.answers("study", "failed 75", "lost", "finished")
    assert place.run("tpu_vm.sh", "watch", *BASE, *STUDY).returncode == 0
    assert [call for call in place.calls() if call in STARTED] == [STARTED[-1]] * 2
    place.answers("study", "failed 75")
    ran = place.run("tpu_vm.sh", "watch", *BASE, *STUDY, "--max_restarts=2")
    assert ran.returncode == 75
    assert "stopped 3 times, more than --max_restarts=2" in ran.stderr
    assert [call for call in place.calls() if call in STARTED] == [STARTED[-1]] * 2


def test_a_failed_study_gives_its_code_its_log_and_its_results(place: Place) -> None:
    place.answers("study", "running", "failed 3")
    ran = place.run("tpu_vm.sh", "all", *BASE, *STUDY)
    assert ran.returncode == 3
    assert "the study failed with code 3" in ran.stderr
    shown = tpu("tpu-vm", "ssh", "flaxfer", "--worker=all", "--command=bash on_vm.sh log")
    assert place.calls()[-4:] == [shown, FETCHED, *DELETED]


@pytest.mark.parametrize("command", ["delete", "watch"])
def test_a_vm_without_the_label_is_not_deleted(place: Place, command: str) -> None:
    place.answers("label", "")
    place.answers("queued", "SUSPENDED")
    ran = place.run("tpu_vm.sh", command, *BASE, *STUDY)
    assert ran.returncode == 2
    assert "not created by this script" in ran.stderr
    assert not [call for call in place.calls() if {"delete", "create", "rm"} & set(call)]


def test_results_are_deleted_only_on_request(place: Place) -> None:
    place.run("tpu_vm.sh", "delete", *BASE)
    assert place.calls() == DELETED
    place.run("tpu_vm.sh", "delete", *BASE, STUDY[0], "--delete_results")
    gone = ["gcloud", "storage", "rm", "--recursive", "gs://my-bucket/flaxfer"]
    assert place.calls()[-1] == gone
    # Without the file that setup writes, the folder is not ours.
    place.fails("storage ls", 1, "One or more URLs matched no objects.")
    ran = place.run("tpu_vm.sh", "delete", *BASE, STUDY[0], "--delete_results")
    assert ran.returncode == 1 and gone not in place.calls()


@pytest.mark.parametrize(
    ("command", "pattern"), [("create", "create"), ("setup", "scp"), ("fetch", "rsync")]
)
def test_a_failed_gcloud_command_ends_the_script_with_its_code(
    place: Place, command: str, pattern: str
) -> None:
    place.fails(pattern, 7, "ERROR: quota 'TPUS' exceeded")
    ran = place.run("tpu_vm.sh", command, *BASE, *STUDY)
    assert ran.returncode == 7
    assert "ERROR: quota 'TPUS' exceeded" in ran.stderr
    assert "failed with code 7: gcloud" in ran.stderr
    assert pattern in place.calls()[-1] and len(place.calls()) == 1


def test_watch_ends_at_the_fifth_failure_in_a_row(place: Place) -> None:
    place.fails("queued-resources describe", 9, "ERROR: no network")
    ran = place.run("tpu_vm.sh", "watch", *BASE, *STUDY)
    assert ran.returncode == 9
    assert ran.stderr.count("ERROR: no network") == len(place.calls()) == 5
    assert "may still be running and is billed" in ran.stderr


def test_a_failed_creation_after_preemption_is_tried_again(place: Place) -> None:
    place.answers("queued", "SUSPENDED")
    place.fails("create", 6, "ERROR: no capacity")
    ran = place.run("tpu_vm.sh", "watch", *BASE, *STUDY)
    assert ran.returncode == 6 and "ERROR: no capacity" in ran.stderr
    assert place.calls() == [CHECKED[0], *DELETED, *[CREATED] * 5]


@pytest.mark.parametrize(("kind", "state"), [("queued", "FAILED"), ("node", "STOPPED")])
@pytest.mark.parametrize("command", ["create", "watch"])
def test_a_vm_in_a_broken_state_is_an_error(
    place: Place, command: str, kind: str, state: str
) -> None:
    place.answers(kind, state)
    ran = place.run("tpu_vm.sh", command, *BASE, *STUDY)
    assert ran.returncode == 1
    assert f"flaxfer in us-west4-a: state {state}" in ran.stderr
    assert place.calls()[-1] == CHECKED[0 if kind == "queued" else 1]


def test_an_interrupted_all_tells_how_to_delete_the_vm(place: Place) -> None:
    place.fails("storage rsync", 4, "ERROR: denied")
    ran = place.run("tpu_vm.sh", "all", *BASE, *STUDY)
    assert ran.returncode == 4
    assert "tpu_vm.sh delete --project=my-project --zone=us-west4-a --name=flaxfer" in ran.stderr
    assert DELETED[1] not in place.calls()


def test_overrides_reach_the_study_unchanged(place: Place) -> None:
    (place.repo / "configs" / "my own.py").write_text("")
    place.commit()
    odd = '--config.target.train.note=it\'s $HOME; "x" *'
    ran = place.run("tpu_vm.sh", "run", *BASE, STUDY[0], "--config", "configs/my own.py:base", odd)
    assert ran.returncode == 0, ran.stderr
    (call,) = place.calls()
    (remote,) = [w.removeprefix("--command=") for w in call if w.startswith("--command=")]
    assert shlex.split(remote)[-2:] == ["configs/my own.py:base", odd]


BAD_TPU = [
    ((BASE[1], *STUDY), "--project=: not a project id"),
    (("--project=My Project", BASE[1], *STUDY), "--project=My Project: not a project id"),
    ((BASE[0], *STUDY), "--zone=: not a zone"),
    ((BASE[0], "--zone=us-west4", *STUDY), "--zone=us-west4: not a zone"),
    ((*BASE, *STUDY, "--name=My_VM"), "--name=My_VM: invalid VM name"),
    ((*BASE, STUDY[0]), "--config: missing"),
    ((*BASE, STUDY[0], "--config=configs/none.py"), "no such file"),
    ((*BASE, STUDY[0], "--config=/etc/hosts"), "not a path inside the checkout"),
    ((*BASE, STUDY[1]), "--bucket=: not a Cloud Storage URL"),
    ((*BASE, STUDY[1], "--bucket=my-bucket"), "--bucket=my-bucket: not a Cloud Storage URL"),
    ((*BASE, *STUDY, "--data=/data"), "--data=/data: not a Cloud Storage URL"),
    ((*BASE, *STUDY, "--accelerator_type=v5litepod-16"), "v5litepod-16: not a known single-host"),
    ((*BASE, *STUDY, "--accelerator_type=v9-8"), "v9-8: not a known single-host slice"),
    ((*BASE, *STUDY, "--python=3.10"), "--python=3.10: flaxfer needs"),
    ((*BASE, *STUDY, "--extras=tpu;ls"), "--extras=tpu;ls: not a list"),
    ((*BASE, *STUDY, "--poll_seconds=0"), "--poll_seconds=0: not a positive integer"),
    ((*BASE, *STUDY, "--source=/home"), "--source=/home: not the URL"),
    ((*BASE, *STUDY, "--config.workdir=x"), "set the workdir"),
    ((*BASE, *STUDY, "--config.x"), "--config.x: not an override"),
    ((*BASE, *STUDY, "--colour=red"), "--colour=red: no such flag"),
    ((*BASE, *STUDY, "--out"), "--out: value missing"),
    ((*BASE, *STUDY, "name=x"), "name=x: not a flag"),
    ((*BASE, *STUDY, "spot"), "spot: not a flag"),
]


@pytest.mark.parametrize(("words", "message"), BAD_TPU)
def test_invalid_input_is_refused_before_any_command(
    untouched: Place, words: tuple[str, ...], message: str
) -> None:
    ran = untouched.run("tpu_vm.sh", "all", *words)
    assert (ran.returncode, untouched.calls()) == (2, [])
    assert message in ran.stderr and "Hint: " in ran.stderr


def test_uncommitted_changes_are_refused(place: Place) -> None:
    (place.repo / "configs" / "new.py").write_text("")
    ran = place.run("tpu_vm.sh", "all", *BASE, STUDY[0], "--config=configs/new.py")
    assert (ran.returncode, place.calls()) == (2, []) and "not in git" in ran.stderr
    (place.repo / "configs" / "one.py").write_text("changed")
    ran = place.run("tpu_vm.sh", "all", *BASE, *STUDY)
    assert (ran.returncode, place.calls()) == (2, []) and "uncommitted changes" in ran.stderr
    # With --source the state of this checkout does not matter.
    place.answers("study", "idle", "finished")
    ran = place.run("tpu_vm.sh", "watch", *BASE, *STUDY, "--source=https://example.org/f.git")
    assert ran.returncode == 0, ran.stderr
    assert "setup https://example.org/f.git 3.12" in str(place.calls())


@pytest.mark.parametrize(
    ("script", "words", "missing"),
    [
        ("tpu_vm.sh", ("create", *BASE), "gcloud"),
        ("slurm.sh", ("--config=configs/one.py", "--python=bin/python"), "sbatch"),
    ],
)
def test_a_missing_tool_is_named(
    place: Place, script: str, words: tuple[str, ...], missing: str
) -> None:
    python = place.repo / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to("/bin/true")
    (place.bin / missing).unlink()
    ran = place.run(script, *words)
    assert ran.returncode == 2
    assert f"{missing} is not on the PATH" in ran.stderr and "Hint: " in ran.stderr


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sh"])
def test_help_shows_every_flag_with_its_default(place: Place, script: str) -> None:
    shown = place.run(script, "--help").stdout
    expected = {
        "tpu_vm.sh": ("--accelerator_type=v5litepod-8", "--poll_seconds=60", "--python=3.12"),
        "slurm.sh": ("--time=04:00:00", "--gpus=0", "--python=.venv/bin/python"),
    }
    for flag in expected[script]:
        assert flag in shown
