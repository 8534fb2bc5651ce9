# shellcheck shell=bash
# Functions shared by the launch scripts: errors, dry runs, quoting, flags. Source it, do not run it.
# The sourcing script sets dry_run and overrides, and defines usage and set_flag.
# shellcheck disable=SC2154

# fail PROBLEM HINT: print both and exit with code 2, flaxfer's code for configuration errors.
fail() {
  printf 'error: %s\n  Hint: %s\n' "$1" "$2" >&2
  exit 2
}

# require PROBLEM HINT: fail, or in a dry run, which needs nothing, print both as a comment.
require() {
  [ "$dry_run" = yes ] || fail "$1" "$2"
  printf '# to run this: %s: %s\n' "$1" "$2"
}

# Print words quoted so that a shell reads them back unchanged.
quote() {
  local word space=''
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
    esac
    printf '%s%s' "$space" "$word"
    space=' '
  done
}

say() {
  if [ "$dry_run" = yes ]; then printf '# %s\n' "$*"; else printf '%s\n' "$*"; fi
}

# Run a command, or print it in a dry run. Its exit code is returned.
run() {
  local code=0
  if [ "$dry_run" = yes ]; then
    quote "$@"
    echo
    return 0
  fi
  "$@" || code=$?
  if [ "$code" -ne 0 ]; then
    printf 'error: command failed with code %s: %s\n' "$code" "$(quote "$@")" >&2
  fi
  return "$code"
}

# parse SWITCHES KEYS WORD...: call `set_flag KEY VALUE` for --KEY=VALUE and --KEY VALUE, set the
# variables of switches to yes, and append --config.KEY=VALUE to `overrides`.
parse() {
  local switches=" $1 " keys=" $2 " word key
  shift 2
  while [ $# -gt 0 ]; do
    word=$1 key=${1#--}
    shift
    case $word in
      -h | --help) usage && exit ;;
      --config.*) check_override "$word" && overrides+=("$word") && continue ;;
      --*) ;;
      *) fail "$word: not a flag" "see $0 --help." ;;
    esac
    if [[ $switches == *" $key "* ]]; then
      printf -v "$key" yes
      continue
    fi
    [[ $keys == *" ${key%%=*} "* ]] || fail "$word: no such flag" "see $0 --help."
    if [[ $key == *=* ]]; then
      set_flag "${key%%=*}" "${key#*=}"
    else
      [ $# -gt 0 ] || fail "$word: value missing" "write $word=VALUE."
      set_flag "$key" "$1"
      shift
    fi
  done
}

# check_number FLAG VALUE
check_number() {
  case $2 in
    '' | *[!0-9]* | 0*) fail "--$1=$2: not a positive integer" "for example --$1=60." ;;
  esac
}

# check_config FILE[:PRESET] [SOURCE]: require a file inside the checkout, which is the current folder
# unless it comes from SOURCE.
check_config() {
  [ -n "$1" ] ||
    fail "--config: missing" "pass --config=FILE[:PRESET], for example --config=configs/sts_xling.py:base."
  [ -z "${2:-}" ] || return 0
  case $1 in
    /* | ../* | */../*)
      fail "--config=$1: not a path inside the checkout" \
        "put the file in $PWD and pass its path relative to that folder, for example configs/mine.py."
      ;;
  esac
  [ -f "${1%%:*}" ] ||
    fail "--config=$1: no such file: $PWD/${1%%:*}" "pass a path relative to $PWD."
}

# check_override WORD: require --config.KEY=VALUE. The scripts set the workdir, from --out.
check_override() {
  case $1 in
    --config.workdir=*)
      fail "$1: the launch scripts set the workdir" "leave it out and set the results folder with --out."
      ;;
    --config.*=*) ;;
    *) fail "$1: not an override" "write --config.KEY=VALUE as one word." ;;
  esac
}

# need_command NAME HINT
need_command() {
  command -v "$1" >/dev/null 2>&1 || require "$1 is not on the PATH" "$2"
}
