#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on the TPU VM, in the home folder of the user. Not for hand use.
#   on_vm.sh setup SOURCE PYTHON EXTRAS COPY DATA   code, environment, and what lies in the bucket
#   on_vm.sh start COPY SECONDS CONFIG [OVERRIDE]   starts the study, detached, and returns
#   on_vm.sh state                                  idle, running, finished, lost or "failed CODE"
#   on_vm.sh log                                    the last lines of the log
# COPY is the place in the bucket where the workdir is saved.
set -euo pipefail
cd "$HOME"
# Outside of the code, so that setting up anew cannot touch results.
workdir="$HOME/flaxfer-run/workdir" notes="$HOME/flaxfer-run/notes"
log="$workdir/launch.log"
export PATH="$HOME/.local/bin:$PATH"

state() {
  if [ -f "$notes/code" ]; then
    if [ "$(cat "$notes/code")" = 0 ]; then echo finished; else echo "failed $(cat "$notes/code")"; fi
  elif [ ! -f "$notes/pid" ]; then
    echo idle
  # By name too: after a restart of the VM another process may have the number.
  elif grep -qs supervise "/proc/$(cat "$notes/pid")/cmdline"; then
    echo running
  else
    echo lost
  fi
}

refuse_if_running() {
  if [ "$(state)" = running ]; then
    echo "error: a study is running on this VM, process $(cat "$notes/pid")." >&2
    echo "  Hint: follow it with watch, or delete the VM first." >&2
    exit 2
  fi
}

setup() {
  local source=$1 python=$2 extras=$3 copy=$4 data=$5
  refuse_if_running
  rm -rf flaxfer
  git clone --quiet "$source" flaxfer
  # The system's Python is older than flaxfer needs; uv brings a whole one without root.
  python3 -m pip install --quiet --user uv
  uv python install --quiet "$python"
  flaxfer/tools/setup.sh .venv "$extras" "$python"
  mkdir -p "$workdir" "$notes"
  # Makes the place, so that the next line fails only for a real reason, and shows that we may write.
  echo "made by flaxfer's launch/tpu_vm.sh" >"$notes/made"
  gcloud storage cp "$notes/made" "$copy/launch.txt"
  gcloud storage rsync --recursive "$copy" "$workdir"
  if [ -n "$data" ]; then
    mkdir -p flaxfer/data
    gcloud storage rsync --recursive "$data" flaxfer/data
  fi
  rm -f "$notes/code" "$notes/pid"
}

# Saves the workdir. The bucket never loses a checkpoint before it has the next one whole: a set of
# files is frozen by hard links, sent whole, and only then is deleted what is not in it.
save() {
  local copy=$1 frozen="$HOME/flaxfer-run/frozen" before
  (
    flock 9
    while :; do
      before=$(manifests)
      rm -rf "$frozen"
      # A file may vanish below cp; then the lists below differ too, or it was a temporary one.
      cp -al "$workdir" "$frozen" 2>/dev/null || true
      if [ "$before" = "$(manifests)" ]; then break; fi
    done
    gcloud storage rsync --recursive "$frozen" "$copy" &&
      gcloud storage rsync --recursive --delete-unmatched-destination-objects "$frozen" "$copy"
  ) 9>"$notes/lock"
}

# The committed checkpoints.
manifests() { find "$workdir" -name manifest.json 2>/dev/null | sort; }

start() {
  refuse_if_running
  if ! [ -x flaxfer/.venv/bin/python ]; then
    echo "error: there is no environment on this VM." >&2
    echo "  Hint: run setup first." >&2
    exit 2
  fi
  rm -f "$notes/code"
  # Its own session, and no tie to ssh's streams: it lives on when ssh ends.
  setsid nohup bash "$HOME/on_vm.sh" supervise "$@" >>"$log" 2>&1 </dev/null &
  echo $! >"$notes/pid"
}

supervise() {
  local copy=$1 seconds=$2 code=0 asked=no saver study
  shift 2
  cd flaxfer
  # A VM that is shut down sends TERM first: stop the study and save what there is.
  trap 'asked=yes; kill -TERM "$study" 2>/dev/null || true' TERM
  echo "$(date -u +%FT%TZ) starting $*"
  # The cache of compiled programs lies in the workdir: a new VM need not compile again.
  FLAXFER_CACHE="$workdir/cache" .venv/bin/python -m flaxfer.main \
    --config "$@" "--config.workdir=$workdir" &
  study=$!
  (
    trap - TERM
    while sleep "$seconds"; do save "$copy" || echo "saving failed; trying again in $seconds s"; done
  ) &
  saver=$!
  wait "$study" || code=$?
  # A trapped signal ends the first wait early.
  while kill -0 "$study" 2>/dev/null; do
    code=0
    wait "$study" || code=$?
  done
  kill "$saver" 2>/dev/null || true
  # Ended by the signal, not by a fault of its own: the same command goes on.
  if [ "$asked" = yes ] && [ "$code" -eq 143 ]; then code=75; fi
  echo "$(date -u +%FT%TZ) ended with code $code"
  if ! save "$copy" && ! save "$copy"; then
    echo "error: the results could not be saved to $copy; they lie in $workdir on this VM."
    code=74
  fi
  echo "$code" >"$notes/code.tmp"
  mv "$notes/code.tmp" "$notes/code"
}

case ${1:-} in
  setup | start | supervise) "$@" ;;
  state) state ;;
  log) tail -n 40 "$log" ;;
  *) sed -n '2,7s/^# *//p' "$0" && exit 2 ;;
esac
