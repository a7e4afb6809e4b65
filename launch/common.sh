# shellcheck shell=sh
# Functions that the launchers share. It is sourced, not run.
#
# `check` lists everything that is missing at once; `run` prints a command
# instead of running it if dry_run=1. A dry run needs no programs.

# `--dry_run` is taken out of the arguments, wherever it stands. After `export`,
# which has a flag of that name itself, it also stays, so that the printed
# command does not upload.
dry_run=0
exports=0
for word in "$@"; do
  shift
  case $word in
    --dry_run)
      dry_run=1
      [ "$exports" -eq 1 ] || continue
      ;;
    export) exports=1 ;;
  esac
  set -- "$@" "$word"
done
missing=

# usage FILE: prints the comment at the head of a file, and ends.
usage() {
  sed -n '2,${/^#\( .*\)\{0,1\}$/!q;s/^# \{0,1\}//p;}' "$1"
  exit 2
}

# no_more COMMAND [WORD...]: ends if there are arguments, which COMMAND does not
# take.
no_more() {
  [ $# -gt 1 ] || return 0
  echo "$1 takes no $(shift && quoted "$@"); nothing was done" >&2
  exit 2
}

# find_python: sets python to PYTHON, else to that of .venv, else to python3.
find_python() {
  : "${root:?is set by who sources this}"
  python=${PYTHON:-python3}
  if [ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
  fi
  need_programs "$python"
}

# need_variables NAME...: notes environment variables that are empty or not set.
need_variables() {
  for needed in "$@"; do
    eval "value=\${$needed:-}"
    [ -n "$value" ] || missing="$missing
  variable $needed"
  done
}

# need_programs NAME...: notes programs that are not installed.
need_programs() {
  [ "$dry_run" -eq 0 ] || return 0
  for needed in "$@"; do
    command -v "$needed" >/dev/null || missing="$missing
  program $needed"
  done
}

# check FILE: ends if anything is missing, and refers to the head of FILE.
check() {
  [ -n "$missing" ] || return 0
  echo "missing:$missing" >&2
  echo "The head of $1 says what each is for." >&2
  exit 2
}

# quoted WORD...: prints words as they can be pasted into a shell.
quoted() {
  line=
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*)
        word="'$(printf %s "$word" | sed "s/'/'\\\\''/g")'"
        ;;
    esac
    line="$line $word"
  done
  printf '%s\n' "${line# }"
}

# run WORD...: runs a command, or prints it in a dry run.
run() {
  if [ "$dry_run" -eq 1 ]; then
    quoted "$@"
  else
    "$@"
  fi
}

# helps_again CODE: succeeds if a command that ended with CODE may succeed when it
# is started again.
helps_again() {
  case $1 in
    130 | 141) return 1 ;; # Ctrl-C; nobody reads its output any more
  esac
  [ "$1" -eq 42 ] || [ "$1" -gt 127 ]
}
