# shellcheck shell=bash
# Functions shared by the launch scripts: errors, dry runs, quoting, flags. Source it, do not run it.
# The sourcing script sets dry_run and overrides, defines usage, and reads key, value and taken.
# shellcheck disable=SC2154,SC2034

# fail PROBLEM HINT: print both and exit with code 2, flaxfer's code for configuration errors.
fail() {
  printf 'error: %s\n  Hint: %s\n' "$1" "$2" >&2
  exit 2
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

# flag WORD NEXT...: set `key`, `value` and `taken` (words consumed) from --key=value or --key value.
flag() {
  key=${1#--} taken=1
  case $key in
    *=*) value=${key#*=} key=${key%%=*} ;;
    *)
      [ $# -ge 2 ] || fail "$1: value missing" "write $1=VALUE."
      value=$2 taken=2
      ;;
  esac
}

# own_flag WORD SWITCHES: handle a word that takes no value: help, a switch listed in SWITCHES (set
# to yes), or an override (appended to `overrides`). Return non-zero for any other word.
own_flag() {
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --config.*)
      check_override "$1" --out
      overrides+=("$1")
      return
      ;;
  esac
  [[ " $2 " == *" $1 "* ]] && printf -v "${1#--}" yes
}

# check_number FLAG VALUE
check_number() {
  case $2 in
    '' | *[!0-9]* | 0*) fail "--$1=$2: not a positive integer" "for example --$1=60." ;;
  esac
}

# check_config FILE[:PRESET]: require a file inside the checkout, which is the current folder.
check_config() {
  [ -n "$1" ] ||
    fail "--config: missing" "pass --config=FILE[:PRESET], for example --config=configs/sts_xling.py:base."
  case $1 in
    /* | ../* | */../*)
      fail "--config=$1: not a path inside the checkout" \
        "put the file in $PWD and pass its path relative to that folder, for example configs/mine.py."
      ;;
  esac
  [ -f "${1%%:*}" ] ||
    fail "--config=$1: no such file: $PWD/${1%%:*}" "pass a path relative to $PWD."
}

# check_override WORD FLAG: require --config.KEY=VALUE. The scripts set the workdir, from FLAG.
check_override() {
  case $1 in
    --config.workdir=*)
      fail "$1: the launch scripts set the workdir" "leave it out and set the results folder with $2."
      ;;
    --config.*=*) ;;
    *) fail "$1: not an override" "write --config.KEY=VALUE as one word." ;;
  esac
}

# need_command NAME HINT
need_command() {
  command -v "$1" >/dev/null 2>&1 || fail "$1 is not on the PATH" "$2"
}
