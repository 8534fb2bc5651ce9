#!/usr/bin/env bash
# Run studies on a Slurm cluster, one node each. See launch/README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
# shellcheck source=launch/common.sh
. "$here/common.sh"

name=flaxfer out='' python=.venv/bin/python time=04:00:00 cpus=8 memory=32G gpus=0
partition='' account='' grace=120 max_requeues=20 before='' dry_run=no write_only=no
configs=() each=() overrides=()

usage() {
  cat <<END
launch/slurm.sh --config=FILE[:PRESET] [flags] [--config.KEY=VALUE ...]

Write OUT/job.sbatch and submit it. Several --config or --each flags make a job array with one task
for each pair of them; the workdir of a task is OUT/TASK_NUMBER.

Flags and their defaults
  --config=FILE[:PRESET]   path inside the checkout; may be repeated
  --each=KEY=VALUE         override that gets a task of its own; may be repeated:
                           --each=seeds=0, --each=seeds=1,
  --name=$name           name of the job
  --out=                   folder for script, logs and results, visible to all nodes;
                           default: runs/NAME
  --python=$python
                           Python with flaxfer installed (tools/setup.sh .venv cuda)
  --before=                shell command to run before the study, such as 'module load cuda'
  --time=$time          time limit of one job; the study continues in the next one
  --cpus=$cpus                 CPUs per node
  --memory=$memory             memory per node
  --gpus=$gpus                 GPUs per node; 0 runs on the CPU
  --partition=             default: the cluster's
  --account=               default: yours
  --grace=$grace              seconds before the time limit at which the study is stopped
  --max_requeues=$max_requeues        limit on how often the job is requeued
  --write_only             write the script without submitting it
  --dry_run                print the commands in order without running them

Exit code: that of sbatch, or 2 for invalid input.
END
}

set_flag() {
  case $1 in
    config) configs+=("$2") ;;
    each) each+=("--config.$2") ;;
    *) printf -v "$1" %s "$2" ;;
  esac
}

check() {
  local word
  [ ${#configs[@]} -gt 0 ] || check_config ''
  for word in "${configs[@]}"; do check_config "$word"; done
  for word in ${each[@]+"${each[@]}"}; do check_override "$word"; done
  [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] ||
    fail "--name=$name: invalid job name" "use letters, digits, hyphens, dots and underscores."
  for word in "$partition" "$account"; do
    [[ $word =~ ^[A-Za-z0-9_.,-]*$ ]] || fail "'$word': invalid partition or account" "list them with sinfo and sacctmgr."
  done
  [[ $time =~ ^([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}$ ]] ||
    fail "--time=$time: invalid time limit" "write HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS."
  [[ $memory =~ ^[1-9][0-9]*[KMGT]$ ]] || fail "--memory=$memory: invalid amount" "for example --memory=32G."
  check_number cpus "$cpus"
  [ "$gpus" = 0 ] || check_number gpus "$gpus"
  check_number grace "$grace"
  check_number max_requeues "$max_requeues"
  : "${out:=runs/$name}"
  case $out in /*) ;; *) out=$PWD/$out ;; esac
  # Slurm does not pass the path of the logs through a shell: there is no quoting, and % introduces
  # its own fields.
  [[ $out =~ ^[A-Za-z0-9_./+-]+$ ]] ||
    fail "--out=$out: Slurm cannot write logs there" "use only letters, digits and _ . / + -."
  [ -x "$python" ] || require "--python=$python: no such program" \
    "create the environment on a node with a network: tools/setup.sh .venv cuda (or another extra)."
  case $python in /*) ;; *) python=$PWD/$python ;; esac
  [ "$write_only" = yes ] || need_command sbatch "run this on a login node of the cluster, or pass --write_only."
}

# Print one branch of the script's case statement for each pair of a config and an --each.
tasks() {
  local config word number=0 more
  for config in "${configs[@]}"; do
    for word in "${each[@]-}"; do
      more=()
      if [ -n "$word" ]; then more=("$word"); fi
      printf '  %s) study=(--config %s) ;;\n' "$number" \
        "$(quote "$config" ${overrides[@]+"${overrides[@]}"} ${more[@]+"${more[@]}"})"
      number=$((number + 1))
    done
  done
}

job() {
  local count=$1 logs=log-%j.txt folder=''
  # B: signal only the batch script, which stops the study.
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=$cpus
#SBATCH --mem=$memory
#SBATCH --time=$time
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@$grace
END
  [ "$gpus" = 0 ] || echo "#SBATCH --gpus-per-node=$gpus"
  [ -z "$partition" ] || echo "#SBATCH --partition=$partition"
  [ -z "$account" ] || echo "#SBATCH --account=$account"
  if [ "$count" -gt 1 ]; then
    echo "#SBATCH --array=0-$((count - 1))"
    logs=log-%A_%a.txt folder=/\$SLURM_ARRAY_TASK_ID
  fi
  cat <<END
#SBATCH --output=$out/$logs

cd $(quote "$PWD") || exit 1
python=$(quote "$python") out=$(quote "$out")$folder max_requeues=$max_requeues
case \${SLURM_ARRAY_TASK_ID:-0} in
$(tasks)
esac
$before
END
  cat <<'END'
# The cache is kept beside the results, so that a requeued job need not compile again.
export FLAXFER_CACHE="${FLAXFER_CACHE:-$out/cache}"
asked=no code=0
# The time limit is near: the study saves its step and ends with code 75; the same command resumes it.
trap 'asked=yes; kill -TERM "$running" 2>/dev/null' USR1
# The job is preempted, and Slurm requeues it, or it is cancelled: save, but do not requeue.
trap 'asked=no; kill -TERM "$running" 2>/dev/null' TERM
"$python" -m flaxfer run "${study[@]}" "--config.workdir=$out" &
running=$!
# A trapped signal interrupts a wait.
while kill -0 "$running" 2>/dev/null; do wait "$running"; done
wait "$running" || code=$?
# A study that finished or failed is not requeued.
if [ "$asked" = yes ] && [ "$code" -eq 75 ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "$max_requeues" ]; then
    echo "error: already requeued $max_requeues times; raise --max_requeues or --time" >&2
    exit "$code"
  fi
  job=$SLURM_JOB_ID
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
  scontrol requeue "$job"
fi
exit "$code"
END
}

parse 'dry_run write_only' \
  'config each name out python time cpus memory gpus partition account grace max_requeues before' "$@"
check
count=$((${#configs[@]} * (${#each[@]} > 0 ? ${#each[@]} : 1)))
run mkdir -p "$out"
if [ "$dry_run" = yes ]; then
  printf 'cat >%s <<'\''END OF JOB'\''\n' "$(quote "$out/job.sbatch")"
  job "$count"
  echo 'END OF JOB'
else
  job "$count" >"$out/job.sbatch"
fi
if [ "$write_only" = yes ]; then
  say "wrote $out/job.sbatch"
else
  run sbatch "$out/job.sbatch"
fi
