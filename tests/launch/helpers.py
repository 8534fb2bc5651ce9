"""A checkout with the launch scripts, and recorders in place of gcloud and sbatch."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"
TOOLS = "bash basename cat cp date dirname env find flock git grep kill ln mkdir mv nohup rm sed"
TOOLS += " setsid sort tail touch"
# Logs its arguments, then answers: with the first line of the file for the kind of question (the
# last line stays), or by the line `PATTERN<TAB>CODE<TAB>MESSAGE` of `failures` whose pattern
# matches.
RECORDER = r"""#!/usr/bin/env bash
here=$(dirname "$(dirname "$0")")
{ printf '%s\0' "$(basename "$0")" "$@"; echo; } >>"$here/calls"
while IFS=$'\t' read -r pattern code message; do
  if [[ "$*" == *$pattern* ]]; then echo "$message" >&2; exit "$code"; fi
done <"$here/failures"
kind=
case "$*" in
  *made_by\)*) kind=label ;;
  *value\(state.state\)*) kind=queued ;;
  *value\(state\)*) kind=node ;;
  *on_vm.sh\ state*) kind=study ;;
  *scp*) if [ -f "${5-}" ]; then cp "$5" "$here/copied-$(basename "$5")"; fi ;;
esac
if [ -n "$kind" ]; then
  read -r answer <"$here/$kind"
  echo "$answer"
  if [ "$(grep -c . "$here/$kind")" -gt 1 ]; then
    sed 1d "$here/$kind" >"$here/next"
    mv "$here/next" "$here/$kind"
  fi
fi
"""


class Place:
    """A committed checkout with the scripts, and a PATH of the tools above and the recorders.

    Nothing else is on that PATH, so no real command can be called.
    """

    def __init__(self, folder: Path, recorders: Sequence[str]):
        self.folder, self.repo, self.bin = folder, folder / "repo", folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        for name in recorders:
            (self.bin / name).write_text(RECORDER)
            (self.bin / name).chmod(0o755)
        answers = {"label": "flaxfer", "queued": "ACTIVE", "node": "READY", "study": "finished"}
        for kind, answer in answers.items():
            self.answers(kind, answer)
        (folder / "failures").write_text("")
        (folder / "calls").write_text("")
        shutil.copytree(LAUNCH, self.repo / "launch")
        (self.repo / "configs").mkdir()
        (self.repo / "configs" / "one.py").write_text("")
        self.git("init", "--quiet")
        self.commit()

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *who, *words], cwd=self.repo, check=True, env=self.env())

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "state")

    def env(self) -> dict[str, str]:
        return {"PATH": str(self.bin), "HOME": str(self.folder)}

    def answers(self, kind: str, *lines: str) -> None:
        (self.folder / kind).write_text("".join(f"{line}\n" for line in lines))

    def fails(self, pattern: str, code: int, message: str) -> None:
        (self.folder / "failures").write_text(f"{pattern}\t{code}\t{message}\n")

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls").write_text("")
        return subprocess.run(
            ["bash", f"launch/{script}", *words],
            cwd=self.repo,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=30,
        )

    def calls(self, name: str = "gcloud") -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines()
        words = [line.split("\0")[:-1] for line in lines]
        return [call for call in words if call[0] == name]
