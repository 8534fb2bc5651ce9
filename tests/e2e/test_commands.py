"""Every command of the documents and config files works as written.

Placeholders get values, the network and accelerators get stand-ins. A command that nothing here
knows how to try is a failure.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flaxfer import main
from flaxfer.config import loading
from flaxfer.subcommands import SUBCOMMANDS
from flaxfer.tasks import TASK_TYPES, custom
from tests.commands import COMMANDS, GUIDES, ROOT, Command, python_of, settings_of
from tests.helpers import WORDS, restored_compilation_cache, tiny_model
from tests.launch.helpers import Place

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
FLAXFER = [c for c in COMMANDS if re.match(r"flaxfer |python -m flaxfer\.main ", c.text)]
MAKE = [c for c in COMMANDS if c.words[0] == "make"]
PIP = [c for c in COMMANDS if c.words[0] == "pip"]
SETUP = [c for c in COMMANDS if c.words[0] == "tools/setup.sh"]
LAUNCH = [c for c in COMMANDS if c.words[0].startswith("launch/")]
CLOUD = [c for c in COMMANDS if c.words[0] in ("gcloud", "squeue")]
MODULES = [c for c in COMMANDS if "-m benchmarks." in c.text]
OTHERS = [c for c in COMMANDS if c.text in (".ci/run", "python -m flaxfer.demo.weights")]
GROUPS = (FLAXFER, MAKE, PIP, SETUP, LAUNCH, CLOUD, MODULES, OTHERS)


def name_of(command: Command) -> str:
    return command.text[:60]


def test_every_command_of_the_documents_is_tried_once() -> None:
    assert len(COMMANDS) > 60
    tried = [command for group in GROUPS for command in group]
    assert sorted(tried) == sorted(COMMANDS), set(COMMANDS) ^ set(tried)
    readme = {c.text for c in FLAXFER if c.document == "README.md" and len(c.words) > 2}
    assert readme == {*RUNS, DEMO}, "run the command in test_the_commands_of_the_readme_run_in_turn"


def flaxfer_words(command: str) -> list[str]:
    words = shlex.split(command)
    return words[1:] if words[0] == "flaxfer" else words[3:]


@pytest.mark.parametrize("command", FLAXFER, ids=name_of)
def test_a_flaxfer_command_has_the_arguments_of_its_subcommand(
    command: Command, tmp_path: Path
) -> None:
    words = flaxfer_words(command.text)
    if len(words) == 1:  # Only mentioned.
        assert words[0] in SUBCOMMANDS
        return
    _, args = main.parse(words)
    if "config" in args and args.config not in ("FILE", "study.py"):  # `init` writes study.py.
        shown = python_of(command.document)
        for name, code in shown.items():
            (tmp_path / name).write_text(code)
        folder = tmp_path if args.config in shown else ROOT
        loading.load_any(str(folder / args.config), TASK_TYPES, args.overrides)


@pytest.mark.parametrize(
    "words",
    [shlex.split(one.command) for entry in SUBCOMMANDS.values() for one in entry.examples],
)
def test_an_example_of_help_has_a_valid_config(words: list[str]) -> None:
    _, args = main.parse(words[1:])
    if "config" in args:
        loading.load_any(str(ROOT / args.config), TASK_TYPES, args.overrides)


@pytest.mark.parametrize("document", [guide for guide in GUIDES if python_of(guide)])
def test_the_python_code_of_a_guide_runs(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom, "_REGISTERED", {})
    names: dict[str, object] = {}  # Later blocks use what earlier ones define.
    for name, code in python_of(document).items():
        file = tmp_path / name
        file.write_text(code)
        if name.endswith(".py"):
            loading.load_any(str(file), TASK_TYPES, ())
        else:
            exec(compile(code, document, "exec"), names)


def commands_of_configs() -> Iterator[tuple[str, str]]:
    for path in CONFIGS:
        text = path.read_text(encoding="utf-8").partition("\nCommands\n")[2].partition("\n\n")[0]
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            yield path.stem, line.strip()


@pytest.mark.parametrize(("stem", "line"), list(commands_of_configs()))
def test_a_command_in_a_config_file_is_valid(stem: str, line: str) -> None:
    words = shlex.split(line)
    if words[:3] == ["python", "-m", "flaxfer.main"]:
        assert f"configs/{stem}.py" in line
        _, args = main.parse(words[3:])
        loading.load_any(str(ROOT / args.config), TASK_TYPES, args.overrides)
    else:
        assert words[:2] == ["python", "-m"] and importlib.util.find_spec(words[2]), line


SETTINGS = sorted({setting for name in ("README.md", *GUIDES) for setting in settings_of(name)})


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_a_document_shows_exists(setting: str) -> None:
    key, _, value = setting.partition("=")
    config = "paper.py:hub" if key.startswith("targets.") else "sts_xling.py:base"
    key = key.replace(".NAME.", ".sentiment-domain.").replace(".NAME", ".xla_some_option")
    overrides = [(key, value.replace("VALUE", "1"))]
    loading.load_any(str(ROOT / "configs" / config), TASK_TYPES, overrides)


@pytest.mark.parametrize("command", MAKE, ids=name_of)
def test_a_make_target_exists(command: Command) -> None:
    words = ["make", "--dry-run", "--no-print-directory", *command.words[1:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    for assignment in command.words[2:]:
        name, _, value = assignment.partition("=")
        assert value in done.stdout or f"--{name.lower()}" in done.stdout


@pytest.mark.parametrize("command", [*PIP, *SETUP], ids=name_of)
def test_an_installation_names_extras_that_exist(command: Command) -> None:
    words = command.words
    if words[0] == "pip":
        assert words[:3] == ["pip", "install", "-e"]
        extra = re.fullmatch(r"\.\[(\w+)\]", words[3])
        assert extra and extra[1] in EXTRAS and len(words) == 4
    else:
        assert os.access(ROOT / words[0], os.X_OK)
        assert set(words[2].split(",")) <= set(EXTRAS) and len(words) == 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A committed checkout with recorders in place of gcloud and Slurm."""
    programs = ("gcloud", "sbatch", "scontrol", "squeue", "sleep")
    place = Place(tmp_path_factory.mktemp("cluster"), programs)
    (place.repo / "configs" / "sts_xling.py").write_text("")
    place.commit()
    python = place.repo / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/bin/true")
    return place


@pytest.mark.parametrize("command", LAUNCH, ids=name_of)
def test_a_launch_script_takes_its_flags(command: Command, cluster: Place) -> None:
    values = {
        "--project": "my-project",
        "--zone": "us-west4-a",
        "--bucket": "gs://my-bucket",
        "--config": "configs/sts_xling.py:base",
    }
    if command.words[-1] == "...":  # Each with the same flags.
        words = command.words[:-1] + [f"{flag}={value}" for flag, value in values.items()]
    else:
        words = [word.lower() if "MY-" in word else word for word in command.words]
        words = [
            re.sub(r"^(--\w+)=.*\.\.\.$", lambda m: f"{m[1]}={values[m[1]]}", w) for w in words
        ]
    cluster.answers("study", "idle", "finished")
    done = cluster.run(words[0].removeprefix("launch/"), *words[1:])
    assert done.returncode == 0, done.stderr
    assert cluster.calls("sbatch" if "slurm" in words[0] else "gcloud")


@pytest.mark.parametrize("command", CLOUD, ids=name_of)
def test_a_line_for_the_cloud_is_read_by_a_shell(command: Command, cluster: Place) -> None:
    program = command.words[0]
    (cluster.folder / "calls").write_text("")
    done = subprocess.run(
        ["bash", "-euc", command.text], env=cluster.env(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(cluster.calls(program)[-1]) > 1


@pytest.mark.parametrize("command", MODULES, ids=name_of)
def test_a_benchmark_has_the_flags_that_are_shown(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command.text.partition(" > ")[0])
    module = importlib.import_module(words[words.index("-m") + 1])
    monkeypatch.setattr(sys, "argv", [*words[2:], "--help"])
    with pytest.raises(SystemExit) as exit_:
        module.main()
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", shown), flag


@pytest.mark.parametrize("command", OTHERS, ids=name_of)
def test_the_other_commands_start(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    if command.text == ".ci/run":
        assert os.access(ROOT / ".ci" / "run", os.X_OK)
        subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
        return
    module = importlib.import_module(command.words[2])
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: {command.text}")


SHORT = (
    *("seeds=(0,)", "intermediate.train.max_steps=2", "target.train.max_steps=2"),
    *("train.max_length=32", "train.row_length=32", "train.max_bucket_sizes=1"),
    *("train.batch_size=8", "transferability=0", "model.dropout=0"),
)
STUDY = "python -m flaxfer.main --config configs/sts_xling.py:local"
DEMO = "python -m flaxfer.main --config configs/sts_xling.py"  # What `make demo` runs.
AOT = "--config.model.path=MODEL --topology v5e:8 --mesh data=4,fsdp=2 --json report.json"
EMBED = "flaxfer embed"
RUNS: dict[str, tuple[int, str]] = {
    "flaxfer init study.py --target reviews_de.csv --intermediate mnli.tsv --model FOLDER": (
        *(0, "study.py"),
    ),
    "flaxfer check study.py": (0, ""),
    "flaxfer run study.py": (0, "runs/study/report.html"),
    "flaxfer check FILE": (0, ""),
    f"{STUDY} --config.data_dir=DATA --config.model.path=MODEL": (0, "runs/NAME/report.html"),
    "flaxfer plan --config FILE": (0, ""),
    "flaxfer report runs/<name>": (0, "runs/NAME/report.md"),
    "flaxfer report runs/<name> --descriptive": (0, "runs/NAME/comparisons.csv"),
    "flaxfer report DIR1 DIR2 --output FOLDER": (0, "both/report.html"),
    "flaxfer export runs/NAME OUT --condition staged --seed 0": (0, "OUT/model.safetensors"),
    "flaxfer predict OUT texts.jsonl --output predictions.jsonl": (0, "predictions.jsonl"),
    "flaxfer predict OUT pairs.csv --columns text_a=Satz text_b=Vergleich "
    "--source delimiter=';' --text": (0, ""),
    "flaxfer convert FOLDER OUT --allow-torch": (2, ""),
    "flaxfer embed sts --model FOLDER --data stsb-de-test.csv --columns 0,1,2 --layers all": (
        0,
        "",
    ),
    f"{EMBED} retrieval --model FOLDER --source a.txt --target b.txt": (0, ""),
    "flaxfer xtreme score PREDICTIONS LABELS --json scores.json": (0, "scores.json"),
    f"flaxfer aot --config configs/sts_xling.py:local --config.data_dir=DATA {AOT}": (69, ""),
}
"""Exit code of each command of the README in the test below, and a file that it writes.

`convert` is tried without PyTorch and `aot` without the compiler, which CI installs elsewhere.
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the README's commands name, each as small as can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAXFER_CACHE", str(tmp_path / "cache"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "libtpu" else find_spec(name, *more),
    )
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    tiny_model(tmp_path / "MODEL", "xlm-roberta", layers=1)
    rng = np.random.default_rng(0)

    def texts(n: int) -> list[str]:
        return [" ".join(rng.choice(WORDS, rng.integers(3, 8))) for _ in range(n)]

    sts, mnli = tmp_path / "DATA" / "stsb-multi-mt", tmp_path / "DATA" / "glue-samples" / "MNLI"
    sts.mkdir(parents=True)
    mnli.mkdir(parents=True)
    for language in ("en", "de", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru", "zh"):
        for split in ("train", "dev", "test"):
            pairs = zip(texts(16), texts(16), rng.uniform(0, 5, 16), strict=True)
            lines = [f"{a},{b},{score:.2f}\n" for a, b, score in pairs]
            (sts / f"stsb-{language}-{split}.csv").write_text("".join(lines))
    for split in ("train", "dev"):
        labels = ["entailment", "neutral", "contradiction"] * 6
        rows = [f"{c}\t{a}\t{b}\n" for c, a, b in zip(labels, texts(18), texts(18), strict=True)]
        (mnli / f"{split}.tsv").write_text("label\ttext_a\ttext_b\n" + "".join(rows))
    (tmp_path / "stsb-de-test.csv").write_text((sts / "stsb-de-test.csv").read_text())
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts(5)))
    for language in ("de", "fr"):
        labels = ["gut", "schlecht"] * 20
        rows = [f"{text};{label}\n" for text, label in zip(texts(40), labels, strict=True)]
        (tmp_path / f"reviews_{language}.csv").write_text("Text;Bewertung\n" + "".join(rows))
    (tmp_path / "mnli.tsv").write_text((mnli / "train.tsv").read_text())
    (tmp_path / "texts.jsonl").write_text('{"text_a": "the man", "text_b": "a man"}\n')
    (tmp_path / "pairs.csv").write_text("Satz;Vergleich\nthe man;a man\n")
    for name in ("PREDICTIONS", "LABELS"):
        (tmp_path / name / "xnli").mkdir(parents=True)
        (tmp_path / name / "xnli" / "test-de.tsv").write_text("neutral\nentailment\n")
    bin_folder = tmp_path / "BIN"
    bin_folder.mkdir()
    (bin_folder / "config.json").write_text('{"model_type": "bert"}')
    (bin_folder / "pytorch_model.bin").write_bytes(b"")
    with restored_compilation_cache():
        yield tmp_path


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_turn(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = [f"--config.{setting}" for setting in SHORT]
    file = ["configs/sts_xling.py:local", "--config.data_dir=DATA", "--config.model.path=MODEL"]
    names = {"FILE": [*file, *short], "runs/NAME": ["runs/sts_xling-local"], "FOLDER": ["MODEL"]}
    names |= {"runs/<name>": names["runs/NAME"], "DIR1": names["runs/NAME"], "DIR2": ["other"]}
    for command, (code, written) in RUNS.items():
        words = flaxfer_words(command)
        words = [word for key in words for word in names.get(key, [key])]
        if "DIR2" in command:
            shutil.copytree(names["runs/NAME"][0], "other")
            words[-1] = "both"
        elif words[0] == "convert":
            words[1] = "BIN"
        elif command.startswith((STUDY, "flaxfer run")):
            words += short
        with monkeypatch.context() as patch:
            if words[0] == "convert":
                patch.setitem(sys.modules, "torch", None)
            done = main.main(words)
        out, err = capsys.readouterr()
        assert done == code, f"{command}\n{out}{err}"
        path = written.replace("runs/NAME", names["runs/NAME"][0])
        assert (world / path).exists(), command
