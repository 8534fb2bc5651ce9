#!/usr/bin/env bash
# Runs studies on a Slurm cluster, each on one node; launch/README.md tells the whole way.
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

Writes OUT/job.sbatch and submits it. Several --config or --each make an array, one task for
every pair of them, with its workdir in OUT/<number of the task>.

Flags, with defaults
  --config=FILE[:PRESET]   path in the checkout; may be repeated
  --each=KEY=VALUE         an override for a task of its own; may be repeated:
                           --each=seeds=0, --each=seeds=1,
  --name=$name           of the job
  --out=                   folder of script, logs and results, seen by all nodes;
                           empty takes runs/NAME
  --python=$python
                           of an environment with flaxfer (tools/setup.sh .venv cuda makes one)
  --before=                a shell command before the study, such as 'module load cuda'
  --time=$time          limit of one piece; the job is queued again and goes on
  --cpus=$cpus                 of the node
  --memory=$memory             of the node
  --gpus=$gpus                 of the node; 0 runs on the CPU
  --partition=             empty takes the cluster's default
  --account=               empty takes your default
  --grace=$grace              seconds before the limit at which the study is stopped
  --max_requeues=$max_requeues        how often it is queued again
  --write_only             writes the script, does not submit it
  --dry_run                prints every command in order and runs none

Exit code: that of sbatch, or 2 for wrong input.
END
}

parse() {
  local key value taken
  while [ $# -gt 0 ]; do
    if own_flag "$1" '--dry_run --write_only'; then
      shift
      continue
    fi
    flag "$@"
    case $key in
      config) configs+=("$value") ;;
      each) each+=("--config.$value") ;;
      name | out | python | time | cpus | memory | gpus | partition | account | grace | \
        max_requeues | before)
        printf -v "$key" %s "$value"
        ;;
      *) fail "$1: no such flag" "see $0 --help." ;;
    esac
    shift "$taken"
  done
}

check() {
  local word
  [ ${#configs[@]} -gt 0 ] || check_config ''
  for word in "${configs[@]}"; do check_config "$word"; done
  for word in ${each[@]+"${each[@]}"}; do check_override "$word" --out; done
  [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] ||
    fail "--name=$name: not a name for a job" "use letters, digits, hyphens, points and underscores."
  for word in "$partition" "$account"; do
    [[ $word =~ ^[A-Za-z0-9_.,-]*$ ]] || fail "'$word': not a partition or account" "sinfo and sacctmgr show them."
  done
  [[ $time =~ ^([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}$ ]] ||
    fail "--time=$time: not a time limit" "write HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS."
  [[ $memory =~ ^[1-9][0-9]*[KMGT]$ ]] || fail "--memory=$memory: not an amount" "write for example --memory=32G."
  check_number cpus "$cpus"
  [ "$gpus" = 0 ] || check_number gpus "$gpus"
  check_number grace "$grace"
  check_number max_requeues "$max_requeues"
  : "${out:=runs/$name}"
  case $out in /*) ;; *) out=$PWD/$out ;; esac
  # Slurm reads the line with the path of the logs without a shell: it has no quoting, and % stands
  # for its own fields.
  [[ $out =~ ^[A-Za-z0-9_./+-]+$ ]] ||
    fail "--out=$out: Slurm cannot write logs there" "take a path of letters, digits and _ . / + -."
  [ -x "$python" ] || fail "--python=$python: there is no such program" \
    "make the environment: tools/setup.sh .venv cuda (or another extra), on a node with a network."
  case $python in /*) ;; *) python=$PWD/$python ;; esac
  [ "$write_only" = yes ] || need_command sbatch "run this on a login node of the cluster, or pass --write_only."
}

# One line of the script's case for each pair of a config and an --each.
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
  local count=$1 logs=log-%j.txt
  echo '#!/usr/bin/env bash'
  echo "#SBATCH --job-name=$name"
  echo '#SBATCH --nodes=1'
  echo '#SBATCH --ntasks=1'
  echo "#SBATCH --cpus-per-task=$cpus"
  echo "#SBATCH --mem=$memory"
  echo "#SBATCH --time=$time"
  [ "$gpus" = 0 ] || echo "#SBATCH --gpus-per-node=$gpus"
  [ -z "$partition" ] || echo "#SBATCH --partition=$partition"
  [ -z "$account" ] || echo "#SBATCH --account=$account"
  if [ "$count" -gt 1 ]; then
    echo "#SBATCH --array=0-$((count - 1))"
    logs=log-%A_%a.txt
  fi
  echo "#SBATCH --output=$out/$logs"
  echo '#SBATCH --open-mode=append'
  echo '#SBATCH --requeue'
  # B: to the script alone, which hands it on.
  echo "#SBATCH --signal=B:USR1@$grace"
  echo
  echo "cd $(quote "$PWD") || exit 1"
  echo "python=$(quote "$python") out=$(quote "$out") max_requeues=$max_requeues"
  [ "$count" -eq 1 ] || echo "out=\$out/\$SLURM_ARRAY_TASK_ID"
  echo "case \${SLURM_ARRAY_TASK_ID:-0} in"
  tasks
  echo 'esac'
  [ -z "$before" ] || echo "$before"
  cat <<'END'
# Compiled programs lie beside the results: a job that is queued again need not compile again.
export FLAXFER_CACHE="${FLAXFER_CACHE:-$out/cache}"
asked=no code=0
# The limit is near, or the job is preempted: the study stops, and the same command goes on later.
trap 'asked=yes; kill -TERM "$running" 2>/dev/null' USR1
"$python" -m flaxfer.main "${study[@]}" "--config.workdir=$out" &
running=$!
wait "$running" || code=$?
# A trapped signal ends a wait early.
while kill -0 "$running" 2>/dev/null; do
  code=0
  wait "$running" || code=$?
done
# 75: it stopped on demand. A study that finished, or failed by itself, is not queued again.
if [ "$code" -eq 75 ] || { [ "$asked" = yes ] && [ "$code" -eq 143 ]; }; then
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "$max_requeues" ]; then
    echo "error: queued again $max_requeues times already; raise --max_requeues, or --time" >&2
    exit "$code"
  fi
  job=$SLURM_JOB_ID
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
  scontrol requeue "$job"
fi
exit "$code"
END
}

parse "$@"
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
  say "written: $out/job.sbatch"
else
  run sbatch "$out/job.sbatch"
fi
