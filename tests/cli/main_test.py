"""What is typed wrong is said in one line; help shows all there is."""

import errno
import gc
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import tomllib

import pytest
from flags_of_commands import FLAGS

from time_jax import __main__
from time_jax.cli import main
from time_jax.config.command import Command
from time_jax.core.errors import RestartableError, RunError, UserError

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = tuple(FLAGS)


def error_of(capsys, *argv):
  """The one line that a wrong command line gives."""
  assert main.main(argv) == 2
  output = capsys.readouterr()
  assert not output.out
  (line,) = output.err.splitlines()
  assert line.startswith("time_jax: error: ")
  return line.removeprefix("time_jax: error: ")


@pytest.mark.parametrize(
  ("command", "near"),
  [
    ("fly", ""),
    ("", ""),
    ("bench", ""),
    ("bench stp", "bench step"),
    ("destill", "distill"),
    ("distil --config=time", "distill"),
  ],
)
def test_an_unknown_command_names_the_known_ones(capsys, command, near):
  line = error_of(capsys, *(command.split() or [""]))
  guess = f"did you mean {near!r}? Known" if near else "known"
  given = command.partition(" --")[0]
  assert line.startswith(f"unknown command {given!r}; {guess}: ")
  assert all(name in line for name in COMMANDS)


def test_the_version_is_printed(capsys):
  assert main.main(["--version"]) == 0
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  assert capsys.readouterr().out == f"time-jax {project['version']}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_names_the_known_ones(capsys, name):
  line = error_of(capsys, *name.split(), "--wings=2")
  known = ", ".join(f"--{flag}" for flag in FLAGS[name])
  end = f"Known flags: {known}." if known else "There are no flags."
  assert line == f"unknown flag 'wings'. {end}"


def test_a_flag_that_is_almost_right(capsys):
  line = error_of(capsys, "choose", "--wrkdir=x")
  assert line.startswith(
    "unknown flag 'wrkdir'. Did you mean --workdir? Known "
  )


def test_arguments_that_are_no_flags(capsys):
  line = error_of(capsys, "choose", "runs/x", "--workdir=runs/y")
  flags = "--workdir, --by, --train, --dev"
  assert line == f"unexpected argument 'runs/x'. Known flags: {flags}."


class Greet(Command):
  """Greet somebody."""

  name = example = "greet"
  argument = "whom"
  whom: str | None = None  # Whom to greet.
  tone: str | None = None  # The tone.

  def run(self):
    SEEN.append((self.whom, self.tone))
    return 0


class GreetOne(Command):
  """Greet one."""

  name = example = "greet one"
  argument = "whom"
  whom: str  # Whom to greet.


SEEN = []


@pytest.fixture
def greet(monkeypatch):
  """Two commands with an argument; gives what the first has seen."""
  SEEN.clear()
  monkeypatch.setitem(main.COMMANDS, "greet", Greet)
  monkeypatch.setitem(main.COMMANDS, "greet one", GreetOne)
  return SEEN


def test_a_word_without_dashes_sets_the_argument(capsys, greet):
  assert main.main(["greet"]) == 0
  assert main.main(["greet", "Aoife", "--tone=warm"]) == 0
  assert main.main(["greet", "--tone=warm", "Aoife"]) == 0
  assert greet == [(None, None), ("Aoife", "warm"), ("Aoife", "warm")]
  line = error_of(capsys, "greet", "Aoife", "Liam")
  assert line.startswith("unexpected argument 'Liam'.")


def test_help_and_errors_name_the_argument(capsys, greet):
  for words, usage in (
    ("greet", "greet [WHOM] [--flag=value ...]"),
    ("greet one", "greet one WHOM [--flag=value ...]"),
  ):
    assert main.main([*words.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"usage: python -m time_jax {usage}" in lines
    assert [x for x in lines if x.startswith("  WHOM  ")]
  assert error_of(capsys, "greet", "one").startswith("greet one needs WHOM; ")
  assert not greet


def raising(error):
  def command(*args, **kwargs):
    raise error

  return command


# In the words of TensorStore, which knows no OSError.
LOST = (
  "Error reading local file \"c/0\": Input/output error [os_error_code='5']"
)


def caused(error, cause):
  error.__cause__ = OSError(cause, "why") if isinstance(cause, int) else cause
  return error


def test_how_other_ends_are_reported(capsys, monkeypatch):
  full = OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
  for error, code, text in (
    (RunError("it broke."), 3, "it broke."),
    (RestartableError("2 is missing."), 42, "2 is missing."),
    (caused(UserError("cannot read x."), errno.ESTALE), 42, "cannot read x."),
    (caused(UserError("cannot read x."), errno.EACCES), 2, "cannot read x."),
    (
      ValueError(f"UNKNOWN: {LOST}"),
      42,
      "lost storage: UNKNOWN: Error reading",
    ),
    (RunError("cannot write x."), 3, "cannot write x."),
    (caused(RunError("cannot write x."), ValueError(LOST)), 42, "cannot write"),
    (UserError(f"damaged: {LOST}"), 2, "damaged: Error reading"),
    (OSError(errno.EIO, "gone"), 42, "lost storage: [Errno 5] gone; start it"),
    (full, 3, "cannot write: No space left on device; make room and run it"),
    (
      OSError(errno.EROFS, "Read-only file system", "a/b"),
      3,
      "the system refuses a/b: Read-only file system; mount it writable, or us",
    ),
    (OSError(errno.EMFILE, "Too many open files"), 3, "allow more open files"),
    (KeyboardInterrupt(), 130, "run the same command again to continue"),
    (caused(ImportError("error"), KeyboardInterrupt()), 130, "interrupted; "),
  ):
    monkeypatch.setattr("time_jax.run.choose.choose", raising(error))
    assert main.main(["choose", "--workdir=x"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("time_jax: error: ") and text in line
  # Anything else is a bug, and its traceback is wanted.
  for error in (
    OSError(errno.ENOENT, "gone"),
    caused(ImportError("error"), ZeroDivisionError()),
    ZeroDivisionError(),
  ):
    monkeypatch.setattr("time_jax.run.choose.choose", raising(error))
    with pytest.raises(type(error)):
      main.main(["choose", "--workdir=x"])


def test_the_traceback_of_a_bug_shows_no_secret(capsys, monkeypatch):
  error = ZeroDivisionError("https://me:word@h/x")
  monkeypatch.setattr("time_jax.run.choose.choose", raising(error))
  monkeypatch.setattr("sys.argv", ["time_jax", "choose", "--workdir=x"])
  with pytest.raises(SystemExit, match="1"):
    __main__.main()
  text = capsys.readouterr().err
  assert text.startswith("Traceback")
  assert text.endswith("ZeroDivisionError: https://me:...@h/x\n")


def unread():
  """A stream whose other end is closed."""
  reading, writing = os.pipe()
  os.close(reading)
  return os.fdopen(writing, "w")


@pytest.mark.parametrize(
  "argv", ["teachers", "--help", "distill --help", "choose --workdir=x", "fly"]
)
@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_nobody_reads_ends_a_command(monkeypatch, argv, lines):
  def choose(workdir):
    print("line\n" * lines, end="")
    return 3

  monkeypatch.setattr("time_jax.run.choose.choose", choose)
  monkeypatch.setattr("sys.argv", ["time_jax", *argv.split()])
  # A wrong command is told on stderr.
  name = "stderr" if argv == "fly" else "stdout"
  with unread() as stream, pytest.raises(SystemExit, match="141"):
    monkeypatch.setattr(sys, name, stream)
    __main__.main()


def test_another_pipe_that_breaks_is_a_bug(capfd, monkeypatch):
  monkeypatch.setattr("time_jax.run.choose.choose", raising(BrokenPipeError()))
  monkeypatch.setattr("sys.argv", ["time_jax", "choose", "--workdir=x"])
  monkeypatch.setattr(sys, "stdout", None)  # closed by who started it
  with (
    open(2, "w", closefd=False) as stream,
    pytest.raises(SystemExit, match="1"),
  ):
    monkeypatch.setattr(sys, "stderr", stream)
    __main__.main()
  assert "BrokenPipeError" in capfd.readouterr().err


def test_a_process_whose_output_nobody_reads_is_quiet():
  words = [sys.executable, "-m", "time_jax", "languages"]
  with unread() as stream:
    done = subprocess.run(
      words, cwd=ROOT, stdout=stream, stderr=subprocess.PIPE, check=False
    )
  assert (done.returncode, done.stderr) == (141, b"")


def test_a_process_that_cannot_write_its_output_says_so():
  words = [sys.executable, "-m", "time_jax", "teachers"]
  with open("/dev/full", "w") as stream:
    done = subprocess.run(
      words, cwd=ROOT, stdout=stream, stderr=subprocess.PIPE, check=False
    )
  assert done.returncode == 3
  (line,) = done.stderr.decode().splitlines()
  assert line.startswith("time_jax: error: cannot write: No space left on dev")


def test_sigterm_ends_a_command_once(capsys, monkeypatch):
  cleaned = []

  def command(*args, **kwargs):
    try:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(9)
    except Exception:
      raise AssertionError("taken for an error") from None
    finally:
      os.kill(os.getpid(), signal.SIGTERM)  # The launcher passes it on, too.
      cleaned.append(1)

  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr("time_jax.run.choose.choose", command)
  assert main.main(["choose", "--workdir=x"]) == 42
  line = capsys.readouterr().err
  assert line.startswith("time_jax: error: stopped by a signal; ")
  assert cleaned and signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_a_callback_loses_is_sent_again(capsys, monkeypatch):
  """As in that of JAX, which runs whenever garbage is collected."""
  calls = []

  def callback(phase, info):
    if not calls:
      calls.append(phase)
      os.kill(os.getpid(), signal.SIGTERM)
      len(calls)  # Here the signal is heard.

  def command(*args, **kwargs):
    gc.callbacks.append(callback)
    gc.collect()
    calls.append("lost")
    time.sleep(9)
    raise AssertionError("nothing came")

  hook = sys.unraisablehook
  monkeypatch.setattr("time_jax.run.choose.choose", command)
  try:
    assert main.main(["choose", "--workdir=x"]) == 42
  finally:
    gc.callbacks.remove(callback)
  assert calls == ["start", "lost"] and sys.unraisablehook == hook
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("time_jax: error: stopped by a signal; ")


def test_ctrl_c_while_commands_are_imported():
  code = """
import runpy, signal, sys

# What is started in the background of a shell ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Finder:
  def find_spec(self, name, path, target=None):
    if name == "time_jax.cli.main":
      signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
runpy.run_module("time_jax", run_name="__main__", alter_sys=True)
"""
  words = [sys.executable, "-c", code, "teachers"]
  done = subprocess.run(
    words, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_process_ends_with_the_exit_code():
  words = [sys.executable, "-m", "time_jax", "chose"]
  done = subprocess.run(
    words, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert done.stderr.startswith("time_jax: error: unknown command 'chose'")
  assert len(done.stderr.splitlines()) == 1


def test_the_console_script_is_the_same(monkeypatch):
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  module, function = project["scripts"]["time-jax"].split(":")
  monkeypatch.setattr(sys, "argv", ["time-jax", "chose"])
  with pytest.raises(SystemExit) as caught:
    getattr(importlib.import_module(module), function)()
  assert caught.value.code == 2
