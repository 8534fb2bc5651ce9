#!/usr/bin/env bash
# Runs a study on a Cloud TPU VM with one host; launch/README.md tells the whole way.
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
  create   makes the TPU VM and waits until it is ready
  setup    code, Python, environment, and what the bucket holds of the workdir
  run      starts the study on the VM, detached
  watch    follows it to its end; after preemption makes the VM anew, sets it up, runs again
  fetch    copies the results from the bucket to --out
  delete   deletes the VM
  all      create, watch, fetch, delete

Flags, with defaults
  --project=ID             Google Cloud project; needed
  --zone=ZONE              for example us-west4-a; needed
  --name=$name            of the VM and of the results' folder
  --accelerator_type=$accelerator_type
                           v4-8, v5p-8, v5litepod-1, -4, -8, v6e-1, -4, -8: one host
  --runtime_version=       software of the VM; empty takes the one for the accelerator type
  --spot                   a spot VM: spare capacity, may be preempted at any time
  --direct                 asks once instead of joining the queue (queued resources)
  --bucket=gs://BUCKET     where the workdir is saved, as BUCKET/NAME
  --config=FILE[:PRESET]   path in the checkout
  --source=                URL of a git repository; empty takes this checkout's last commit
  --data=gs://BUCKET/PATH  copied to data/ in the checkout on the VM; default none
  --extras=$extras             extras of flaxfer to install
  --python=$python            Python on the VM
  --out=$out               fetch writes to OUT/NAME
  --sync_seconds=$sync_seconds       time between two savings of the workdir
  --poll_seconds=$poll_seconds        time between two looks at the state
  --max_restarts=$max_restarts        how often watch makes a VM anew or runs the study again
  --keep                   all: does not delete the VM
  --delete_results         delete: also the copy in the bucket
  --dry_run                prints every command in order and runs none

Exit code: that of the study, of the gcloud command that failed, or 2 for wrong input.
END
}

parse() {
  local key value taken
  command=${1:-}
  [ $# -gt 0 ] && shift
  case $command in
    create | setup | run | watch | fetch | delete | all) ;;
    -h | --help | help)
      usage
      exit 0
      ;;
    *) fail "'$command': no such command" "see $0 --help." ;;
  esac
  while [ $# -gt 0 ]; do
    if own_flag "$1" '--spot --direct --keep --delete_results --dry_run'; then
      shift
      continue
    fi
    flag "$@"
    case $key in
      project | zone | name | accelerator_type | runtime_version | bucket | config | source | data | \
        extras | python | out | sync_seconds | poll_seconds | max_restarts)
        printf -v "$key" %s "$value"
        ;;
      *) fail "$1: no such flag" "see $0 --help." ;;
    esac
    shift "$taken"
  done
}

check() {
  bucket=${bucket%/} data=${data%/}
  need_command gcloud "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)."
  [ -n "$project" ] || fail "--project: no project is named" "pass --project=ID; gcloud projects list shows them."
  [[ $project =~ ^[a-z][a-z0-9.:-]*$ ]] ||
    fail "--project=$project: not a project id" "pass the id, not the title: small letters, digits, hyphens."
  [ -n "$zone" ] || fail "--zone: no zone is named" "pass --zone=ZONE, for example --zone=us-west4-a."
  [[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
    fail "--zone=$zone: not a zone" "write it like us-west4-a (a region such as us-west4 is not enough)."
  [[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    fail "--name=$name: not a name for a VM" \
      "use small letters, digits and hyphens, begin with a letter, end with none of the hyphens, 40 at most."
  check_accelerator
  [[ $python =~ ^3\.(1[1-9]|[2-9][0-9])$ ]] || fail "--python=$python: flaxfer needs 3.11 or later" "write for example --python=3.12."
  [[ $extras =~ ^[a-z]+(,[a-z]+)*$ ]] || fail "--extras=$extras: not a list of extras" "write for example --extras=tpu,wandb."
  check_number sync_seconds "$sync_seconds"
  check_number poll_seconds "$poll_seconds"
  check_number max_restarts "$max_restarts"
  if [ "$command" != create ] && { [ "$command" != delete ] || [ "$delete_results" = yes ]; }; then
    [ -n "$bucket" ] || fail "--bucket: no bucket is named" \
      "pass --bucket=gs://BUCKET; the workdir must outlive the VM. gcloud storage buckets create makes one."
    check_bucket bucket "$bucket"
  fi
  if [ -n "$data" ]; then check_bucket data "$data"; fi
  case $command in run | watch | all) check_study ;; esac
  case $command in setup | watch | all) check_source ;; esac
}

# Which slices are one host: tables of "VM types" in the documentation of each TPU version.
check_accelerator() {
  case $accelerator_type in
    v4-8) : "${runtime_version:=tpu-ubuntu2204-base}" ;;
    v5p-8) : "${runtime_version:=v2-alpha-tpuv5}" ;;
    v5litepod-[148]) : "${runtime_version:=v2-alpha-tpuv5-lite}" ;;
    v6e-[148]) : "${runtime_version:=v2-alpha-tpuv6e}" ;;
    *)
      if [[ $accelerator_type =~ ^(v4|v5p|v5litepod|v6e)-[1-9][0-9]+$ ]]; then
        fail "--accelerator_type=$accelerator_type: a slice of several hosts, which flaxfer cannot use yet" \
          "take one host: v4-8, v5p-8, v5litepod-8 or v6e-8."
      fi
      fail "--accelerator_type=$accelerator_type: unknown" \
        "take one of v4-8, v5p-8, v5litepod-1, v5litepod-4, v5litepod-8, v6e-1, v6e-4, v6e-8."
      ;;
  esac
}

check_bucket() {
  [[ $2 =~ ^gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/[A-Za-z0-9._/-]+)?$ ]] ||
    fail "--$1=$2: not a place in Cloud Storage" "write it with gs://, for example --$1=gs://my-bucket."
}

check_study() {
  if [ -z "$source" ]; then check_config "$config"; fi
  [ -n "$config" ] || check_config ''
}

# A run's record names the commit of its code, so what is copied is a commit.
check_source() {
  if [ -n "$source" ]; then
    [[ $source =~ ^(https://|ssh://|git@)[^[:space:]]+$ ]] ||
      fail "--source=$source: not the URL of a git repository" "write https://..., ssh://... or git@...; leave it out for this checkout."
    return
  fi
  git rev-parse --git-dir >/dev/null 2>&1 ||
    fail "$PWD: not a git checkout" "clone the repository, or pass --source=URL."
  [ "$(git rev-parse --is-shallow-repository)" = false ] ||
    fail "$PWD: a shallow clone, which cannot be copied" "run git fetch --unshallow, or pass --source=URL."
  [ -z "$(git status --porcelain --untracked-files=no)" ] ||
    fail "$PWD: there are changes that are not committed" "commit them, or git stash; the VM gets the last commit."
  if [ -n "$config" ] && ! git ls-files --error-unmatch "${config%%:*}" >/dev/null 2>&1; then
    fail "--config=$config: the file is not in git" "git add and commit it; the VM gets the last commit."
  fi
}

# ask ASSUMED COMMAND...: sets `answer` to what the command prints, in a dry run to ASSUMED.
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

# --quiet: gcloud must not wait for an answer that nobody gives.
tpus() { run gcloud compute tpus "$@" "--project=$project" "--zone=$zone" --quiet; }
ask_tpus() { ask "$1" gcloud compute tpus "${@:2}" "--project=$project" "--zone=$zone" --quiet; }

# on_vm COMMAND: on all workers; today's slices have one.
on_vm() { tpus tpu-vm ssh "$name" --worker=all "--command=$1"; }

# Both kinds carry a label, by which delete knows its own.
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
    # --force: a queued resource that still has its VM is deleted with it.
    delete=(queued-resources delete "$name" --force)
  fi
  ask_tpus flaxfer "${delete[0]}" describe "$name" "--format=value($label)" || return
  [ "$answer" = flaxfer ] ||
    fail "$name in $zone: not made by this script (it lacks the label made_by=flaxfer)" \
      "pass the --name of your own; this one is left alone. A VM made with --direct is deleted with it."
  tpus "${delete[@]}"
}

# Sets `vm` to ready, waiting, gone or broken.
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
  printf 'error: %s in %s: its state is %s\n  Hint: %s\n' "$name" "$zone" "$answer" \
    "gcloud compute tpus queued-resources (or tpu-vm) describe $name says why; then delete and create it again." >&2
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
  say "$name is ready, and costs until it is deleted"
}

do_setup() {
  local origin=$source bundle
  bundle="$(git rev-parse --git-dir)/flaxfer-launch.bundle"
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

# What follows from the state of the VM and of the study; sets `study`. One round of watch.
step() {
  study=''
  # The VM was deleted, but making it anew failed the last time.
  if [ "$removed" = yes ]; then make_vm || return; fi
  look_at_vm || return
  case $vm in
    broken) broken ;;
    waiting) study=waiting && return ;;
    gone)
      count_restart "$name was preempted ($answer); making it anew"
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
    # 75: it was asked to stop, and the same command continues; lost: the VM was started anew.
    'failed 75' | lost) count_restart "the study stopped ($study); running it again" && do_run ;;
    finished | running | failed\ [0-9]*) ;;
    *)
      echo "error: $name answers '$study' when asked for the study's state" >&2
      return 1
      ;;
  esac
}

count_restart() {
  say "$(date -u +%T) $1"
  restarts=$((restarts + 1))
  if [ "$restarts" -gt "$max_restarts" ]; then
    echo "error: $name: stopped $restarts times, more than --max_restarts=$max_restarts" >&2
    echo "  Hint: look at the log ($bucket/$name/launch.log); run watch again to go on." >&2
    exit 75
  fi
}

# Sets `result` to the study's exit code. A gcloud command may fail now and then in days of watching;
# five failures in a row are handed on.
do_watch() {
  local failures=0 code
  restarts=0 study='' assumed=idle removed=no
  while :; do
    code=0
    step || code=$?
    if [ "$code" -eq 0 ]; then failures=0; else failures=$((failures + 1)); fi
    if [ "$failures" -ge 5 ]; then
      echo "error: five failures in a row; $name may be running, and costs until it is deleted" >&2
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
    say "the last lines come every $poll_seconds s until the study ends; after preemption instead:"
    { remove_vm && make_vm; } | sed 's/^/#   /'
    say "and from the first describe on again"
  fi
  if [ "$result" -ne 0 ]; then
    on_vm 'bash on_vm.sh log' || true
    echo "error: the study failed with code $result; its log is above, whole in $bucket/$name/launch.log" >&2
  else
    say "the study has finished"
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
    # There only if setup made the folder.
    run gcloud storage ls "$bucket/$name/launch.txt"
    run gcloud storage rm --recursive "$bucket/$name"
  elif [ -n "$bucket" ]; then
    say "kept, and costs: $bucket/$name (delete --delete_results removes it)"
  fi
}

# shellcheck disable=SC2329 # The trap calls it.
reminder() {
  say "$name may still be there, and costs until it is deleted: $0 delete" \
    "--project=$project --zone=$zone --name=$name$([ "$direct" = no ] || echo ' --direct')" >&2
}

do_all() {
  trap reminder EXIT
  do_create
  do_watch
  # A failed study is fetched too, for its log, and its VM does not stay to cost.
  do_fetch
  if [ "$keep" = yes ]; then return; fi
  do_delete
  trap - EXIT
}

parse "$@"
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
