r"""Check flaxfer on one NVIDIA GPU in at most eight minutes: values, speed, and resumption.

python -m benchmarks.gpu_check --out FOLDER [--wheels FOLDER] [--only PART ...] [--tiny]

Needs PyTorch, transformers, accelerate, and JAX 0.10.2 or newer with CUDA in this Python; pure
packages that are missing may lie as wheels in a folder, and nothing is fetched. Each part is a
process of its own, because JAX and PyTorch reserve the GPU's memory. Parts come in order of value
(`benchmarks.gpu_check.plan`), and each result is in FOLDER/records.jsonl as soon as it is there.
What does not fit into the time is recorded as skipped, with the reason. `--only` runs some parts
again and leaves the results of the others. With `--tiny` sizes are tiny, for a machine without a
GPU. The exit code is 1 if values are wrong or flaxfer fails; speed does not change it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check import plan, records
from flaxfer.runtime import host

ROOT = Path(__file__).parents[2]
SECONDS = 470
"""Time limit of all parts; the rest of eight minutes is for starting and installing."""

FAST_COMPILATION = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
"""Tiny programs take longer to compile than to run."""

MACHINE = "machine"
"""Part and name of the record of the machine, its commit and date."""

GRACE = 10.0
"""Seconds that a part may exceed its limit before it is killed: it ends with the cell it is in."""

ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    # One process at a time uses the GPU; a little is left for the study's own processes.
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
}


def main(arguments: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    options = parse(arguments)
    out = options.out.absolute()
    file, chosen = out / "records.jsonl", options.only or [part.name for part in plan.PARTS]
    forget(file, [MACHINE, *chosen])
    about = host.cpu_and_memory() | {"date": host.now(), "git": host.commit()}
    records.append(file, {"part": MACHINE, "name": MACHINE, "status": "ok", "took_s": 0.0, **about})
    with tempfile.TemporaryDirectory() as site:
        if options.wheels:
            install(options.wheels, Path(site))
        paths = [str(ROOT), site, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}
        if options.tiny:
            environment |= FAST_COMPILATION
        for part in plan.PARTS:
            if options.tiny and part.cells and not any(cell.tiny for cell in part.cells):
                print(f"{part.name}: left out with --tiny, its code is that of other parts")
            elif part.name in chosen:
                run(part, file, options, options.seconds - (time.monotonic() - began), environment)
    return summarise(records.read(file), chosen, options.tiny, time.monotonic() - began)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of missing packages")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in plan.PARTS])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of all parts")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for a CPU")
    return parser.parse_args(arguments)


def forget(file: Path, parts: Sequence[str]) -> None:
    """Remove the records of the parts that run again."""
    kept = [record for record in records.read(file) if record["part"] not in parts]
    file.unlink(missing_ok=True)
    for record in kept:
        records.append(file, record)


def install(wheels: Path, site: Path) -> None:
    """Unpack the wheels of a folder into another, without a network."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        sys.exit(f"error: there are no wheels in {wheels}\n  Hint: see `pip download --help`.")
    options = ["--no-index", "--no-deps", "--no-compile", "--quiet", "--target", str(site)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, *files])
    if done.returncode:
        sys.exit("error: pip cannot install the wheels\n  Hint: they have to fit this Python.")


def run(
    part: plan.Part, file: Path, options: argparse.Namespace, left: float, environment: dict
) -> None:
    """Run a part in a process of its own, and record what it leaves undone."""
    began = time.monotonic()
    # A slow machine without a GPU runs every tiny part to its end.
    seconds = min(part.seconds * (3 if options.tiny else 1), left - GRACE)
    if seconds < part.least:
        reason = (
            f"{left:.0f} s of {options.seconds:.0f} s are left, the part needs {part.least:.0f}"
        )
        leave(part, file, "skipped", reason, began, options.tiny)
        return
    print(f"{part.name}: at most {seconds:.0f} s", flush=True)
    command = [sys.executable, "-m", f"benchmarks.gpu_check.{part.module}", "--part", part.name]
    command += ["--seconds", f"{seconds:.0f}", "--out", str(file)]
    command += ["--cache", str(file.parent / "cache"), *["--tiny"] * options.tiny]
    log = file.parent / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds + GRACE)
            status, reason = "failed", f"the process ended with exit code {code}, see {log.name}"
        except subprocess.TimeoutExpired:
            code, status = None, "skipped"
            reason = f"the part's {seconds:.0f} s are over"
        finally:
            # Its own processes are in its group, and must not keep the GPU.
            kill(process)
    if code != 0:
        leave(part, file, status, reason, began, options.tiny)
    if code:
        text = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(f"  {line}" for line in text[-15:]), flush=True)


def kill(process: subprocess.Popen) -> None:
    """Kill a process and those it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def leave(part: plan.Part, file: Path, status: str, reason: str, began: float, tiny: bool) -> None:
    """Record the cells, or the checks of a part without cells, that have no result."""
    done = [record["name"] for record in records.read(file) if record["part"] == part.name]
    chosen = [cell.name for cell in part.cells if cell.tiny or not tiny]
    names = [name for name in chosen if name not in done] or [part.name]
    seconds = round(time.monotonic() - began, 2)
    for name in names:
        entry = {"part": part.name, "name": name, "status": status, "took_s": seconds}
        records.append(file, entry | {"reason": reason})


def summarise(
    results: Sequence[records.Record], parts: Sequence[str], tiny: bool, seconds: float
) -> int:
    """Print a line for each result; return the exit code."""
    failed = 0
    for record in results:
        if record["part"] not in parts:
            continue
        # A failing peer or profiler is no fault of flaxfer; with --tiny it is one of this check.
        other = record.get("side") == "torch" or record.get("cell", {}).get("what") == "profile"
        failed += record["status"] == "failed" and (tiny or not other)
        print(
            f"{record['part']:14} {record['name']:58} {record['status']:8}"
            f"{record['took_s']:7.1f} s  {outcome(record)}"
        )
    print(f"{'FAILED' if failed else 'ok'} after {seconds:.0f} s")
    return 1 if failed else 0


def outcome(record: records.Record) -> str:
    """Describe a result in a few words."""
    if "reason" in record:
        return str(record["reason"])
    if "differences" in record:
        return f"largest difference {max(record['differences'].values()):.1e}"
    if record.get("examples_per_s"):
        text = f"{record['examples_per_s']:,.0f} examples/s"
        return text + (f", MFU {record['mfu']:.1%}" if record.get("mfu") else "")
    if "flops_per_s" in record:
        return f"{record['flops_per_s'] / 1e12:,.1f} TFLOP/s"
    return json.dumps(record.get("kernels_ms") or record.get("scores") or {})[:120]


if __name__ == "__main__":
    sys.exit(main())
