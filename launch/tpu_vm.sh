#!/usr/bin/env bash
# Run a study on a single-host Cloud TPU VM. See launch/README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
# shellcheck source=launch/common.sh
. "$here/common.sh"

project='' zone='' name=flaxfer accelerator_type=v5litepod-8 runtime_version='' spot=no direct=no
bucket='' config='' source='' data='' extras=tpu python=3.12 out=runs
sync_seconds=300 poll_seconds=60 max_restarts=20 keep=no delete_results=no dry_run=no
overrides=()

usage() {
  cat <<END
launch/tpu_vm.sh COMMAND --project=ID --zone=ZONE [flags] [--config.KEY=VALUE ...]

Commands
  create   create the TPU VM and wait until it is ready
  setup    install code, Python and environment, and restore the workdir from the bucket
  run      start the study on the VM in the background
  watch    follow the study to its end; after preemption, recreate the VM and resume the study
  fetch    copy the results from the bucket to --out
  delete   delete the VM
  all      create, watch, fetch, delete

Flags and their defaults
  --project=ID             Google Cloud project; required
  --zone=ZONE              for example us-west4-a; required
  --name=$name            name of the VM and of the results folder
  --accelerator_type=$accelerator_type
                           single-host: v4-8, v5p-8, v5litepod-1, -4, -8, v6e-1, -4, -8
  --runtime_version=       software of the VM; default: the one for the accelerator type
  --spot                   a spot VM: spare capacity, may be preempted at any time
  --direct                 request the VM once instead of queueing (queued resources)
  --bucket=gs://BUCKET     the workdir is saved to BUCKET/NAME
  --config=FILE[:PRESET]   path inside the checkout
  --source=                URL of a git repository; default: this checkout's last commit
  --data=gs://BUCKET/PATH  copied to data/ in the checkout on the VM; default: nothing
  --extras=$extras             extras of flaxfer to install
  --python=$python            Python version on the VM
  --out=$out               fetch writes to OUT/NAME
  --sync_seconds=$sync_seconds       seconds between saves of the workdir
  --poll_seconds=$poll_seconds        seconds between checks of the state
  --max_restarts=$max_restarts        how often watch may recreate the VM or restart the study
  --keep                   all: keep the VM
  --delete_results         delete: also delete the copy in the bucket
  --dry_run                print the commands in order without running them

Exit code: that of the study or of the failed gcloud command, 2 for invalid input, or 75 if the
study was stopped too often; running watch again continues it.
END
}

set_flag() { printf -v "$1" %s "$2"; }

check() {
  bucket=${bucket%/} data=${data%/}
  need_command gcloud "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)."
  [[ $project =~ ^[a-z][a-z0-9.:-]*$ ]] ||
    fail "--project=$project: not a project id" "pass --project=ID; list yours with gcloud projects list."
  [[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
    fail "--zone=$zone: not a zone" "for example --zone=us-west4-a (us-west4 is only a region)."
  [[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    fail "--name=$name: invalid VM name" \
      "use at most 40 lowercase letters, digits and hyphens; start with a letter, do not end with a hyphen."
  check_accelerator
  [[ $python =~ ^3\.(1[1-9]|[2-9][0-9])$ ]] || fail "--python=$python: flaxfer needs 3.11 or later" "for example --python=3.12."
  [[ $extras =~ ^[a-z]+(,[a-z]+)*$ ]] || fail "--extras=$extras: not a list of extras" "for example --extras=tpu,wandb."
  check_number sync_seconds "$sync_seconds"
  check_number poll_seconds "$poll_seconds"
  check_number max_restarts "$max_restarts"
  if [ "$command" != create ] && { [ "$command" != delete ] || [ "$delete_results" = yes ]; }; then
    check_bucket bucket "$bucket"
  fi
  if [ -n "$data" ]; then check_bucket data "$data"; fi
  case $command in run | watch | all) check_config "$config" "$source" ;; esac
  case $command in setup | watch | all) check_source ;; esac
}

# Accept single-host slices, listed under "VM types" in the documentation of each TPU version.
check_accelerator() {
  case $accelerator_type in
    v4-8) : "${runtime_version:=tpu-ubuntu2204-base}" ;;
    v5p-8) : "${runtime_version:=v2-alpha-tpuv5}" ;;
    v5litepod-[148]) : "${runtime_version:=v2-alpha-tpuv5-lite}" ;;
    v6e-[148]) : "${runtime_version:=v2-alpha-tpuv6e}" ;;
    *)
      fail "--accelerator_type=$accelerator_type: not a known single-host slice" \
        "use one of v4-8, v5p-8, v5litepod-1, v5litepod-4, v5litepod-8, v6e-1, v6e-4, v6e-8."
      ;;
  esac
}

check_bucket() {
  [[ $2 =~ ^gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/[A-Za-z0-9._/-]+)?$ ]] ||
    fail "--$1=$2: not a Cloud Storage URL" "for example --$1=gs://my-bucket."
}

# Only committed code is copied, because the record of a run names the commit.
check_source() {
  if [ -n "$source" ]; then
    [[ $source =~ ^(https://|ssh://|git@)[^[:space:]]+$ ]] ||
      fail "--source=$source: not the URL of a git repository" "pass https://..., ssh://... or git@..., or leave it out to use this checkout."
    return
  fi
  if ! git rev-parse --git-dir >/dev/null 2>&1; then
    require "$PWD: not a git checkout" "clone the repository, or pass --source=URL."
    return
  fi
  [ "$(git rev-parse --is-shallow-repository)" = false ] ||
    require "$PWD: a shallow clone cannot be copied" "run git fetch --unshallow, or pass --source=URL."
  [ -z "$(git status --porcelain --untracked-files=no)" ] ||
    require "$PWD: uncommitted changes" "commit or stash them; the VM gets the last commit."
  if [ -n "$config" ] && ! git ls-files --error-unmatch "${config%%:*}" >/dev/null 2>&1; then
    require "--config=$config: the file is not in git" "add and commit it; the VM gets the last commit."
  fi
}

# ask ASSUMED COMMAND...: set `answer` to the command's output, or to ASSUMED in a dry run.
ask() {
  local assumed=$1
  shift
  if [ "$dry_run" = yes ]; then
    run "$@"
    answer=$assumed
  else
    answer=$(run "$@") || return
  fi
}

# --quiet: gcloud must not prompt.
tpus() { run gcloud compute tpus "$@" "--project=$project" "--zone=$zone" --quiet; }
ask_tpus() { ask "$1" gcloud compute tpus "${@:2}" "--project=$project" "--zone=$zone" --quiet; }

# on_vm COMMAND: run it on all workers; a single-host slice has one.
on_vm() { tpus tpu-vm ssh "$name" --worker=all "--command=$1"; }

# The label marks VMs of this script; remove_vm refuses all others.
make_vm() {
  local create=(queued-resources create "$name" "--node-id=$name" "--runtime-version=$runtime_version")
  if [ "$direct" = yes ]; then create=(tpu-vm create "$name" "--version=$runtime_version"); fi
  create+=("--accelerator-type=$accelerator_type" --labels=made_by=flaxfer)
  if [ "$spot" = yes ]; then create+=(--spot); fi
  tpus "${create[@]}" || return
  removed=no
}

remove_vm() {
  local label=labels.made_by delete=(tpu-vm delete "$name")
  if [ "$direct" = no ]; then
    label="tpu.nodeSpec[0].node.$label"
    # --force: delete a queued resource together with its VM.
    delete=(queued-resources delete "$name" --force)
  fi
  ask_tpus flaxfer "${delete[0]}" describe "$name" "--format=value($label)" || return
  [ "$answer" = flaxfer ] ||
    fail "$name in $zone: not created by this script (the label made_by=flaxfer is missing)" \
      "nothing was deleted; check --name, and pass --direct if the VM was created with it."
  tpus "${delete[@]}"
}

# Set `vm` to ready, waiting, gone or broken.
look_at_vm() {
  if [ "$direct" = no ]; then
    ask_tpus ACTIVE queued-resources describe "$name" '--format=value(state.state)' || return
    case $answer in
      ACTIVE) ;;
      CREATING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES | SUSPENDING) vm=waiting && return ;;
      SUSPENDED) vm=gone && return ;;
      *) vm=broken && return ;;
    esac
  fi
  ask_tpus READY tpu-vm describe "$name" '--format=value(state)' || return
  case $answer in
    READY) vm=ready ;;
    CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING) vm=waiting ;;
    PREEMPTED | TERMINATED) vm=gone ;;
    *) vm=broken ;;
  esac
}

broken() {
  printf 'error: %s in %s: state %s\n  Hint: %s\n' "$name" "$zone" "$answer" \
    "gcloud compute tpus queued-resources (or tpu-vm) describe $name tells why; then delete and recreate it." >&2
  exit 1
}

do_create() {
  make_vm
  while :; do
    look_at_vm
    case $vm in
      ready) break ;;
      broken | gone) broken ;;
      waiting) say "$(date -u +%T) $name: $answer" && sleep "$poll_seconds" ;;
    esac
  done
  say "$name is ready and is billed until it is deleted"
}

do_setup() {
  local origin=$source bundle
  # Only a dry run comes here without a repository.
  bundle="$(git rev-parse --git-dir 2>/dev/null || echo .git)/flaxfer-launch.bundle"
  if [ -z "$source" ]; then
    origin=flaxfer.bundle
    run git bundle create --quiet "$bundle" HEAD || return
    tpus tpu-vm scp "$bundle" "$name:flaxfer.bundle" --worker=all || return
    run rm -f "$bundle" || return
  fi
  tpus tpu-vm scp launch/on_vm.sh "$name:on_vm.sh" --worker=all || return
  on_vm "bash on_vm.sh setup $(quote "$origin" "$python" "$extras" "$bucket/$name" "$data")"
}

do_run() {
  assumed=finished
  on_vm "bash on_vm.sh start $(quote "$bucket/$name" "$sync_seconds" "$config" ${overrides[@]+"${overrides[@]}"})"
}

# One round of watch: act on the state of the VM and of the study; set `study`.
step() {
  study=''
  # The last round deleted the VM but could not recreate it.
  if [ "$removed" = yes ]; then make_vm || return; fi
  look_at_vm || return
  case $vm in
    broken) broken ;;
    waiting) study=waiting && return ;;
    gone)
      count_restart "$name was preempted ($answer); recreating it"
      remove_vm && removed=yes && make_vm
      return
      ;;
  esac
  # A new VM has no on_vm.sh yet.
  ask_tpus "$assumed" tpu-vm ssh "$name" --worker=all \
    '--command=if [ -f on_vm.sh ]; then bash on_vm.sh state; else echo idle; fi' || return
  study=$answer
  case $study in
    idle) do_setup && do_run ;;
    # 75: stopped on request, the same command resumes it; lost: the VM was restarted.
    'failed 75' | lost) count_restart "the study stopped ($study); resuming it" && do_run ;;
    finished | running | failed\ [0-9]*) ;;
    *)
      echo "error: $name reports the unknown study state '$study'" >&2
      return 1
      ;;
  esac
}

count_restart() {
  say "$(date -u +%T) $1"
  restarts=$((restarts + 1))
  if [ "$restarts" -gt "$max_restarts" ]; then
    echo "error: $name: stopped $restarts times, more than --max_restarts=$max_restarts" >&2
    echo "  Hint: read the log ($bucket/$name/launch.log); run watch again to continue." >&2
    exit 75
  fi
}

# Set `result` to the study's exit code. gcloud may fail occasionally over days of watching; only five
# failures in a row end the watch.
do_watch() {
  local failures=0 code
  restarts=0 study='' assumed=idle removed=no
  while :; do
    code=0
    step || code=$?
    if [ "$code" -eq 0 ]; then failures=0; else failures=$((failures + 1)); fi
    if [ "$failures" -ge 5 ]; then
      echo "error: five failures in a row; $name may still be running and is billed until it is deleted" >&2
      exit "$code"
    fi
    case $study in
      finished) result=0 && break ;;
      failed\ 75) ;;
      failed\ *) result=${study#failed } && break ;;
    esac
    if [ "$dry_run" = yes ]; then continue; fi
    say "$(date -u +%T) $name: VM ${vm:-unknown}, study ${study:-unknown}"
    sleep "$poll_seconds"
  done
  if [ "$dry_run" = yes ]; then
    say "the last commands repeat every $poll_seconds s until the study ends; after preemption instead:"
    { remove_vm && make_vm; } | sed 's/^/#   /'
    say "and again from the first describe"
  fi
  if [ "$result" -ne 0 ]; then
    on_vm 'bash on_vm.sh log' || true
    echo "error: the study failed with code $result; see above, or the full log in $bucket/$name/launch.log" >&2
  else
    say "the study finished"
  fi
}

do_fetch() {
  run mkdir -p "$out/$name" || return
  run gcloud storage rsync --recursive '--exclude=^cache/.*' "$bucket/$name" "$out/$name" || return
  say "results: $out/$name"
}

do_delete() {
  remove_vm
  if [ "$delete_results" = yes ]; then
    # This file exists only if setup created the folder.
    run gcloud storage ls "$bucket/$name/launch.txt"
    run gcloud storage rm --recursive "$bucket/$name"
  elif [ -n "$bucket" ]; then
    say "kept, and billed: $bucket/$name (remove it with delete --delete_results)"
  fi
}

# shellcheck disable=SC2329 # The trap calls it.
reminder() {
  say "$name may still exist and is billed until it is deleted: $0 delete" \
    "--project=$project --zone=$zone --name=$name$([ "$direct" = no ] || echo ' --direct')" >&2
}

do_all() {
  trap reminder EXIT
  do_create
  do_watch
  # Also after a failed study: its log is fetched, and its VM must not keep costing money.
  do_fetch
  if [ "$keep" = yes ]; then return; fi
  do_delete
  trap - EXIT
}

command=${1:-}
case $command in
  create | setup | run | watch | fetch | delete | all) shift ;;
  -h | --help) usage && exit ;;
  *) fail "'$command': no such command" "see $0 --help." ;;
esac
parse 'spot direct keep delete_results dry_run' \
  "project zone name accelerator_type runtime_version bucket config source data extras python out \
sync_seconds poll_seconds max_restarts" "$@"
check
result=0
case $command in
  create) do_create ;;
  setup) do_setup ;;
  run) do_run ;;
  watch) do_watch ;;
  fetch) do_fetch ;;
  delete) do_delete ;;
  all) do_all ;;
esac
exit "$result"
