#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on the TPU VM, in the user's home folder. Not meant to be run by hand.
#   on_vm.sh setup SOURCE PYTHON EXTRAS COPY DATA   install code and environment, restore the workdir
#   on_vm.sh start COPY SECONDS CONFIG [OVERRIDE]   start the study in the background
#   on_vm.sh state                                  print idle, running, finished, lost or "failed CODE"
#   on_vm.sh log                                    print the end of the log
# COPY is the bucket folder that the workdir is saved to.
set -euo pipefail
cd "$HOME"
# Outside the checkout, so that repeating the setup cannot touch results.
workdir="$HOME/flaxfer-run/workdir" notes="$HOME/flaxfer-run/notes"
log="$workdir/launch.log"
export PATH="$HOME/.local/bin:$PATH"

state() {
  if [ -f "$notes/code" ]; then
    if [ "$(cat "$notes/code")" = 0 ]; then echo finished; else echo "failed $(cat "$notes/code")"; fi
  elif [ ! -f "$notes/pid" ]; then
    echo idle
  # Check the name too: after a reboot another process may have this pid.
  elif grep -qs supervise "/proc/$(cat "$notes/pid")/cmdline"; then
    echo running
  else
    echo lost
  fi
}

refuse_if_running() {
  if [ "$(state)" = running ]; then
    echo "error: a study is already running on this VM (pid $(cat "$notes/pid"))." >&2
    echo "  Hint: follow it with watch, or delete the VM first." >&2
    exit 2
  fi
}

setup() {
  local source=$1 python=$2 extras=$3 copy=$4 data=$5
  refuse_if_running
  rm -rf flaxfer
  git clone --quiet "$source" flaxfer
  # The system's Python is too old for flaxfer; uv installs a newer one without root.
  python3 -m pip install --quiet --user uv
  uv python install --quiet "$python"
  flaxfer/tools/setup.sh .venv "$extras" "$python"
  mkdir -p "$workdir" "$notes"
  # Creates the folder, so that the next command fails only for a real reason, and proves write access.
  echo "made by flaxfer's launch/tpu_vm.sh" >"$notes/made"
  gcloud storage cp "$notes/made" "$copy/launch.txt"
  gcloud storage rsync --recursive "$copy" "$workdir"
  if [ -n "$data" ]; then
    mkdir -p flaxfer/data
    gcloud storage rsync --recursive "$data" flaxfer/data
  fi
  rm -f "$notes/code" "$notes/pid"
}

# Save the workdir. A snapshot made of hard links is uploaded completely before anything that is not
# in it is deleted, so the bucket keeps each checkpoint until it holds the next one.
save() {
  local copy=$1 frozen="$HOME/flaxfer-run/frozen" before
  (
    flock 9
    while :; do
      before=$(manifests)
      rm -rf "$frozen"
      # A file may vanish while cp runs; then the manifests differ too, or the file was temporary.
      cp -al "$workdir" "$frozen" 2>/dev/null || true
      if [ "$before" = "$(manifests)" ]; then break; fi
    done
    gcloud storage rsync --recursive "$frozen" "$copy" &&
      gcloud storage rsync --recursive --delete-unmatched-destination-objects "$frozen" "$copy"
  ) 9>"$notes/lock"
}

# List the committed checkpoints.
manifests() { find "$workdir" -name manifest.json 2>/dev/null | sort; }

start() {
  refuse_if_running
  if ! [ -x flaxfer/.venv/bin/python ]; then
    echo "error: this VM has no environment." >&2
    echo "  Hint: run setup first." >&2
    exit 2
  fi
  rm -f "$notes/code"
  # A session of its own, detached from ssh's streams, survives the end of the ssh connection.
  setsid nohup bash "$HOME/on_vm.sh" supervise "$@" >>"$log" 2>&1 </dev/null &
  echo $! >"$notes/pid"
}

supervise() {
  local copy=$1 seconds=$2 code=0 saver study
  shift 2
  cd flaxfer
  # A VM sends TERM before it shuts down: the study saves its step and ends with code 75, and its
  # workdir is saved.
  trap 'kill -TERM "$study" 2>/dev/null || true' TERM
  echo "$(date -u +%FT%TZ) starting $*"
  # The cache is saved with the workdir, so that a new VM need not compile again.
  FLAXFER_CACHE="$workdir/cache" .venv/bin/python -m flaxfer run \
    --config "$@" "--config.workdir=$workdir" &
  study=$!
  (
    trap - TERM
    while sleep "$seconds"; do save "$copy" || echo "saving failed; next attempt in $seconds s"; done
  ) &
  saver=$!
  # A trapped signal interrupts a wait.
  while kill -0 "$study" 2>/dev/null; do wait "$study" || true; done
  wait "$study" || code=$?
  kill "$saver" 2>/dev/null || true
  echo "$(date -u +%FT%TZ) ended with code $code"
  if ! save "$copy" && ! save "$copy"; then
    echo "error: the results could not be saved to $copy; they are in $workdir on this VM."
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
