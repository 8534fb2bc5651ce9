"""Record what the published functions give for XTREME's mock data: golden.json.

It runs the code of a checkout of github.com/google-research/xtreme, so it needs the seqeval that
gave the published values, and nothing of flaxfer:

    python -m venv official && official/bin/pip install seqeval==0.0.12
    official/bin/python tests/xtreme/official.py CHECKOUT > tests/xtreme/golden.json
"""

import contextlib
import importlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Write the scores of all tasks whose files are complete."""
    checkout = Path(sys.argv[1]).absolute()
    sys.path.insert(0, str(checkout))
    published = importlib.import_module("evaluate")
    data = checkout / "mock_test_data"
    scores = {}
    for benchmark, languages in published.XTREME_VERSIONS_LANG_DICT.items():
        groups = published.XTREME_VERSIONS_GROUP_DICT[benchmark]
        with tempfile.TemporaryDirectory() as folder:
            # The script stops at a task that lacks a language.
            for task, codes in languages.items():
                suffix = published.get_suffix(task, groups)
                names = {f"test-{code}.{suffix}" for code in codes}
                for side in ("predictions", "labels"):
                    source, link = data / side / task, Path(folder, side, task)
                    link.parent.mkdir(exist_ok=True)
                    if names and all((source / name).exists() for name in names):
                        link.symlink_to(source)
            sides = [str(Path(folder, side)) for side in ("predictions", "labels")]
            with contextlib.redirect_stdout(sys.stderr):
                overall, tasks = published.evaluate(*sides, benchmark)
        scores[benchmark] = overall | tasks
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    versions = {
        "commit": subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip(),
        "seqeval": importlib.metadata.version("seqeval"),
        "python": platform.python_version(),
    }
    print(json.dumps(versions | scores, indent=1))


if __name__ == "__main__":
    main()
