"""Build the sdist and the wheel, compare them with what git tracks, and try the wheel.

  python tools/package.py [FOLDER]

The wheel is built from the sdist, and both are left in FOLDER, by default dist/. The wheel is
installed into a fresh environment that sees the dependencies of this one, but not the checkout,
and checks the config of the demo, whose weights must be there (python -m flaxfer.demo.weights).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = {".ci/run", ".gitignore"}
"""Tracked files that the sdist leaves out."""
GENERATED = {"PKG-INFO", "setup.cfg"}


def tracked_files(root: Path) -> set[str]:
    """Return the paths that git tracks and the working tree has."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True)
    return {name for name in done.stdout.decode().split("\0") if name and (root / name).is_file()}


def copy(root: Path, files: set[str], to: Path) -> None:
    """Copy files with their folders, so that nothing else in the checkout is packaged."""
    for name in files:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to / name)


def build(source: Path, out: Path) -> tuple[Path, Path]:
    """Build in an empty folder, and return the sdist and the wheel."""
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nerror: the build failed.")
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def sdist_files(sdist: Path) -> set[str]:
    """Return the files of an sdist without those that setuptools generates."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    return {name for name in names - GENERATED if not name.startswith("flaxfer.egg-info/")}


def wheel_files(wheel: Path) -> set[str]:
    """Return the files that a wheel installs, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    return {name for name in names if ".dist-info/" not in name}


def differences(name: str, found: set[str], expected: set[str]) -> list[str]:
    """Return a line for each file that is missing or should not be there."""
    lines = [f"{name}: {file} is missing" for file in sorted(expected - found)]
    return lines + [f"{name}: {file} should not be there" for file in sorted(found - expected)]


def try_wheel(sdist: Path, wheel: Path, scratch: Path) -> None:
    """Install a wheel into a fresh environment, and run the command line in an empty folder."""
    venv, empty = scratch / "venv", scratch / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python, flaxfer = venv / "bin" / "python", venv / "bin" / "flaxfer"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    # A folder in a .pth file is searched, but its own .pth files, such as the one that makes the
    # checkout importable, are not read.
    (site,) = venv.glob("lib/python3*/site-packages")
    dependencies = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "sdist", filter="data")
    (config,) = scratch.glob("sdist/*/configs/sts_xling.py")
    empty.mkdir()
    left_out = ("PYTHONPATH", "PYTHONHOME")
    env = {name: value for name, value in os.environ.items() if name not in left_out}

    def run(*words: object) -> str:
        done = subprocess.run(
            [str(word) for word in words], cwd=empty, env=env, text=True, stdout=subprocess.PIPE
        )
        if done.returncode:
            raise SystemExit(f"error: {words} ended with {done.returncode}.")
        return done.stdout

    place = run(python, "-c", "import flaxfer; print(flaxfer.__file__)").strip()
    if not place.startswith(str(venv)):
        raise SystemExit(f"error: the installed package is not imported, but {place}.")
    version = wheel.name.split("-")[1]
    for words, expected in (
        (["--version"], f"flaxfer {version}\n"),
        (["--help"], "usage: flaxfer "),
        (["run", "--config", config, "--check=config"], "the configuration is valid"),
    ):
        shown = run(flaxfer, *words)
        if not shown.startswith(expected):
            raise SystemExit(f"error: flaxfer {words} printed\n{shown}")


def main() -> None:
    """Build, compare and try, and leave the files in a folder."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")
    tracked = tracked_files(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        copy(ROOT, tracked, scratch / "source")
        sdist, wheel = build(scratch / "source", scratch / "built")
        package = {name for name in tracked if name.startswith("flaxfer/")}
        problems = differences("sdist", sdist_files(sdist), tracked - LEFT_OUT)
        problems += differences("wheel", wheel_files(wheel), package)
        if problems:
            hint = "name it in MANIFEST.in, for the wheel also in package-data of pyproject.toml."
            raise SystemExit("\n".join([*problems, f"  Hint: {hint}"]))
        try_wheel(sdist, wheel, scratch)
        out.mkdir(parents=True, exist_ok=True)
        for file in (sdist, wheel):
            print(f"{shutil.copy2(file, out)}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
