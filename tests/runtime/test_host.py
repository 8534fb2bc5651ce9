"""The cache folder, the commit, and commands that install extras."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flaxfer.runtime import host

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SUFFIXES = (".py", ".md", ".sh", ".j2")


def test_the_cache_is_found_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FLAXFER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert host.cache_dir("") == tmp_path / ".cache/flaxfer"
    assert host.cache_dir("~/programs") == tmp_path / "programs"
    monkeypatch.setenv("FLAXFER_CACHE", "~/shared")
    assert host.cache_dir("") == tmp_path / "shared"
    assert host.cache_dir("here") == Path("here")


@pytest.mark.parametrize("extra", ["demo", "sentencepiece", "tensorboard", "wandb", "tpu", "cuda"])
def test_the_hint_installs_the_checkout_from_any_folder(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extra in EXTRAS
    monkeypatch.chdir(ROOT)
    assert shlex.split(host.install_hint(extra)) == ["pip", "install", "-e", f".[{extra}]"]
    monkeypatch.chdir(tmp_path)
    assert shlex.split(host.install_hint(extra))[-1] == f"{ROOT}[{extra}]"


def test_a_checkout_with_blanks_in_its_path_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "it's mine"
    checkout.mkdir()
    (checkout / "pyproject.toml").write_text("")
    monkeypatch.setattr(host, "ROOT", checkout)
    assert shlex.split(host.install_hint("demo"))[-1] == f"{checkout}[demo]"


def test_without_a_checkout_the_hint_names_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel's metadata has the dependencies with markers."""
    lines = [
        "numpy>=2.0",
        'old; python_version < "3"',
        'protobuf>=5.0; extra == "sentencepiece"',
        'sentencepiece>=0.2; extra == "sentencepiece"',
        f'here==1; sys_platform == "{sys.platform}" and extra == "demo"',
        'elsewhere==1; sys_platform == "os2" and extra == "demo"',
    ]
    monkeypatch.setattr(host, "ROOT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    hint = host.install_hint("sentencepiece")
    assert shlex.split(hint) == ["pip", "install", "protobuf>=5.0", "sentencepiece>=0.2"]
    assert host.install_hint("demo") == "pip install here==1"


def test_no_text_of_the_package_or_its_documents_installs_flaxfer_from_an_index() -> None:
    """An index has no flaxfer."""
    files = [*ROOT.glob("*.md")]
    for folder in ("flaxfer", "configs", "launch", "tools", "docs"):
        files += [path for path in (ROOT / folder).rglob("*.*") if path.suffix in SUFFIXES]
    assert len(files) > 150
    for path in files:
        for command in re.findall(r"pip install [^\n`]*", path.read_text(encoding="utf-8")):
            assert not re.search(r"(?<![\w/.])flaxfer\b", command), f"{path}: {command}"
            # In the package, extras come from the function.
            if path.is_relative_to(ROOT / "flaxfer") and path.name != "host.py":
                assert "[" not in command, f"{path}: {command}"


def test_the_commit_is_that_of_the_folder_and_of_no_repository_around_it(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.check_output(["git", *who, *words], cwd=tmp_path, text=True).strip()

    assert host.commit(tmp_path) == ""
    git("init", "--quiet")
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "file").write_text("one")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert host.commit(tmp_path) == commit
    assert host.commit(tmp_path / "installed") == ""
    (tmp_path / "installed" / "file").write_text("two")
    assert host.commit(tmp_path) == f"{commit}-dirty"
    assert host.commit(tmp_path, "installed") == commit
