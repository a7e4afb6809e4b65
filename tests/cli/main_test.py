"""What is typed wrong is said in one line; help shows all there is."""

import errno
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import tomllib

import pytest
from absl import flags
from flags_of_commands import FLAGS

from time_jax import __main__
from time_jax.cli import main
from time_jax.config import distill
from time_jax.config.command import Command
from time_jax.core.errors import RestartableError, RunError, UserError

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = f"--config={ROOT}/configs/time.py"
COMMANDS = tuple(FLAGS)


def field_names():
  fields = distill.flatten(distill.default_config().to_dict())
  return [name for name, _ in fields]


def error_of(capsys, *argv):
  """The one line that a wrong command line gives."""
  assert main.main(argv) == 2
  output = capsys.readouterr()
  assert not output.out
  (line,) = output.err.splitlines()
  assert line.startswith("time_jax: error: ")
  return line.removeprefix("time_jax: error: ")


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_overview_lists_the_commands(capsys, argv):
  assert main.main(argv) == 0
  output = capsys.readouterr()
  lines = output.out.splitlines()
  assert not output.err
  assert "usage: python -m time_jax COMMAND [--flag=value ...]" in lines
  assert tuple(main.COMMANDS) == COMMANDS
  for name in COMMANDS:
    (line,) = (x for x in lines if x.startswith(f"  {name} "))
    assert len(line.removeprefix(f"  {name}").strip()) > 10
    assert len(line) <= 90


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_of_a_command(capsys, name, word):
  assert main.main([*name.split(), word]) == 0
  output = capsys.readouterr()
  assert not output.err
  lines = output.out.splitlines()
  assert lines[0] == main.COMMANDS[name].summary
  argument = main.COMMANDS[name].argument
  usage = f"usage: python -m time_jax {name}"
  if argument in main.COMMANDS[name].required:
    usage += f" {argument.upper()}"
  elif argument:
    usage += f" [{argument.upper()}]"
  assert lines[2] == usage + (" [--flag=value ...]" if FLAGS[name] else "")
  assert lines[3].startswith(f"example: python -m time_jax {name}")
  start = lines.index("flags:") + 1 if FLAGS[name] else len(lines)
  shown = [x.split() for x in lines[start:] if x.startswith("  ")]
  shown = shown[: len(FLAGS[name])]  # Fields of the recipe come behind.
  want = [x.upper() if x == argument else f"--{x}" for x in FLAGS[name]]
  assert [words[0] for words in shown] == want
  assert all(len(words) > 1 for words in shown)
  required = {
    w[0].removeprefix("--").lower() for w in shown if w[-1] == "(required)"
  }
  assert required == set(main.COMMANDS[name].required)


@pytest.mark.parametrize("name", ["prepare", "distill"])
def test_help_shows_every_field_and_its_value(capsys, name):
  assert main.main([name, "--help"]) == 0
  text = capsys.readouterr().out
  _, _, fields = text.partition("config fields (defaults):\n")
  found = dict(line.split(maxsplit=1) for line in fields.splitlines())
  assert sorted(found) == sorted(field_names())
  assert found["train.eps"] == "1e-06 (from 1e-20 to 1)"
  assert found["train.num_steps"] == "200000 (from 1 to 1,000,000,000)"
  arguments = [f"{RECIPE}:lang=da,size=xs", "--config.train.num_steps=7"]
  assert main.main([name, *arguments, "--help"]) == 0
  text = capsys.readouterr().out
  _, _, fields = text.partition("fields of this recipe:\n")
  found = dict(line.split(maxsplit=1) for line in fields.splitlines())
  assert found["lang"] == "'da'"
  assert found["student.num_layers"].split()[0] == "4"
  assert found["train.num_steps"].split()[0] == "7"


@pytest.mark.parametrize("group", ["bench", "finetune"])
def test_help_of_a_group_lists_its_commands(capsys, group):
  assert main.main([group, "--help"]) == 0
  lines = capsys.readouterr().out.splitlines()
  found = [x for x in lines if x.startswith("  ")]
  of_group = [name for name in COMMANDS if name.startswith(f"{group} ")]
  assert len(found) == len(of_group) > 1
  assert all(
    f"  {name} " in line for name, line in zip(of_group, found, strict=True)
  )


@pytest.mark.parametrize("argv", [["fly"], ["bench"], ["bench", "fly"], [""]])
def test_an_unknown_command_names_the_known_ones(capsys, argv):
  line = error_of(capsys, *argv)
  assert line.startswith(f"unknown command '{' '.join(argv)}'; known: ")
  assert all(name in line for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_names_the_known_ones(capsys, name):
  line = error_of(capsys, *name.split(), "--wings=2")
  assert "'wings'" in line
  known = ", ".join(f"--{flag}" for flag in FLAGS[name])
  end = f"Known flags: {known}." if known else "There are no flags."
  assert line.endswith(end)


def test_arguments_that_are_no_flags(capsys):
  line = error_of(capsys, "choose", "runs/x", "--workdir=runs/y")
  assert line == "unexpected argument 'runs/x'. Known flags: --workdir."


@pytest.fixture
def greet(monkeypatch):
  """A command with an argument; calls it saw."""
  seen = []

  def define(values, argv):
    del argv
    for name in ("name", "tone"):
      flags.DEFINE_string(name, None, f"The {name}.", flag_values=values)

  def run(values):
    seen.append((values.name, values.tone))
    return 0

  for word, required in (("greet", ()), ("greet one", ("name",))):
    command = Command("Greets.", word, (define,), required, run, "name")
    monkeypatch.setitem(main.COMMANDS, word, command)
  return seen


def test_a_word_without_dashes_sets_the_argument(capsys, greet):
  assert main.main(["greet"]) == 0
  assert main.main(["greet", "Aoife", "--tone=warm"]) == 0
  assert main.main(["greet", "--tone=warm", "Aoife"]) == 0
  assert greet == [(None, None), ("Aoife", "warm"), ("Aoife", "warm")]
  line = error_of(capsys, "greet", "Aoife", "Liam")
  assert line.startswith("unexpected argument 'Liam'.")


def test_help_and_errors_name_the_argument(capsys, greet):
  for words, usage in (
    ("greet", "greet [NAME] [--flag=value ...]"),
    ("greet one", "greet one NAME [--flag=value ...]"),
  ):
    assert main.main([*words.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"usage: python -m time_jax {usage}" in lines
    assert [x for x in lines if x.startswith("  NAME  ")]
  assert error_of(capsys, "greet", "one").startswith("greet one needs NAME; ")
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
  ):
    monkeypatch.setattr("time_jax.run.choose.choose", raising(error))
    assert main.main(["choose", "--workdir=x"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("time_jax: error: ") and text in line
  # Anything else is a bug, and its traceback is wanted.
  for error in (OSError(errno.ENOENT, "gone"), ZeroDivisionError()):
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
