# shellcheck shell=sh
# What the launchers share; they source it, nobody runs it.
#
# `check` lists all that is missing at once, `run` prints a command instead of
# running it when dry_run=1. Programs need not be there for a dry run.

# `--dry_run` makes a dry run of the launcher wherever it stands, and is taken
# out of its words. Behind `export`, which has one of its own, it stays, so that
# what is printed does not upload.
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

# usage FILE: the comment at a file's head.
usage() {
  sed -n '2,${/^#\( .*\)\{0,1\}$/!q;s/^# \{0,1\}//p;}' "$1"
  exit 2
}

# no_more COMMAND [WORD...]: ends if there are words that a command does not take.
no_more() {
  [ $# -gt 1 ] || return 0
  echo "$1 takes no $(shift && quoted "$@"); nothing was done" >&2
  exit 2
}

# find_python: PYTHON, else the one of .venv, else python3.
find_python() {
  : "${root:?is set by who sources this}"
  python=${PYTHON:-python3}
  if [ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
  fi
  need_programs "$python"
}

# need_variables NAME...: environment variables that must not be empty.
need_variables() {
  for wanted in "$@"; do
    eval "value=\${$wanted:-}"
    [ -n "$value" ] || missing="$missing
  variable $wanted"
  done
}

# need_programs NAME...
need_programs() {
  [ "$dry_run" -eq 0 ] || return 0
  for wanted in "$@"; do
    command -v "$wanted" >/dev/null || missing="$missing
  program $wanted"
  done
}

# check FILE: ends if anything is missing.
check() {
  [ -n "$missing" ] || return 0
  echo "missing:$missing" >&2
  echo "The head of $1 says what each is for." >&2
  exit 2
}

# quoted WORD...: as it can be pasted into a shell.
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

# run WORD...: a command, or its text.
run() {
  if [ "$dry_run" -eq 1 ]; then
    quoted "$@"
  else
    "$@"
  fi
}

# helps_again CODE: whether a command that ended so may do better next time.
helps_again() {
  case $1 in
    130 | 141) return 1 ;; # Ctrl-C; nobody reads its output any more
  esac
  [ "$1" -eq 42 ] || [ "$1" -gt 127 ]
}
