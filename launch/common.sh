# shellcheck shell=bash
# What the launch scripts share: errors, dry runs, quoting, flags. Sourced, never run by itself.
# The sourcing script sets dry_run and overrides, has usage, and reads key, value and taken.
# shellcheck disable=SC2154,SC2034

# fail WHAT MEND: what is wrong and where, how to mend it; code 2, as flaxfer's for configuration.
fail() {
  printf 'error: %s\n  Hint: %s\n' "$1" "$2" >&2
  exit 2
}

# Prints words so that a shell reads them back as they are.
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

# Runs a command, or in a dry run prints it. Its own message stays; the code is handed on.
run() {
  local code=0
  if [ "$dry_run" = yes ]; then
    quote "$@"
    echo
    return 0
  fi
  "$@" || code=$?
  if [ "$code" -ne 0 ]; then
    printf 'error: this command failed with code %s: %s\n' "$code" "$(quote "$@")" >&2
  fi
  return "$code"
}

# flag WORD NEXT...: sets `key`, `value` and `taken` (words used up) from --key=value or --key value.
flag() {
  key=${1#--} taken=1
  case $key in
    *=*) value=${key#*=} key=${key%%=*} ;;
    *)
      [ $# -ge 2 ] || fail "$1: it has no value" "write $1=VALUE."
      value=$2 taken=2
      ;;
  esac
}

# own_flag WORD SWITCHES: takes a word that needs no value: help, a switch among SWITCHES (set to
# yes), or an override (put into `overrides`). Fails quietly at any other.
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
    '' | *[!0-9]* | 0*) fail "--$1=$2: not a whole number above 0" "write for example --$1=60." ;;
  esac
}

# check_config FILE[:PRESET]: it lies in the checkout, which is the current folder.
check_config() {
  [ -n "$1" ] ||
    fail "--config: no config file is named" "pass --config=FILE[:PRESET], for example --config=configs/sts_xling.py:base."
  case $1 in
    /* | ../* | */../*)
      fail "--config=$1: not a path inside the checkout" \
        "put the file into $PWD and write its path from there, for example configs/mine.py."
      ;;
  esac
  [ -f "${1%%:*}" ] ||
    fail "--config=$1: there is no file $PWD/${1%%:*}" "write the path as seen from $PWD."
}

# check_override WORD: --config.KEY=VALUE, but not the workdir, which the scripts choose.
check_override() {
  case $1 in
    --config.workdir=*)
      fail "$1: these scripts choose the workdir themselves" "leave it out; $2 says where results go."
      ;;
    --config.*=*) ;;
    *) fail "$1: not an override" "write --config.KEY=VALUE in one word." ;;
  esac
}

# need_command NAME MEND
need_command() {
  command -v "$1" >/dev/null 2>&1 || fail "$1 is not on the PATH" "$2"
}
