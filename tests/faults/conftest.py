"""The undisturbed runs to compare with, and the table at the end."""

import pytest
import running

FLAGS = (
  "--config.train.num_steps=40",
  "--config.checkpoint.every=10",
  "--config.eval.every=20",
  # What one to four processes can share.
  "--config.train.global_batch_size=12",
  "--config.eval.global_batch_size=12",
  "--config.student.dropout=0.1",
  "--config.student.attention_dropout=0.1",
)
# Four processes on two cores take seconds a step.
FEWER = ("--config.train.num_steps=20", "--config.eval.every=10")
_HEAD = ("fault", "outcome", "exit code", "seconds to recover")


def pytest_collection_modifyitems(items):
  for item in items:
    if "/faults/" in str(item.path):
      item.add_marker(pytest.mark.fault)


@pytest.fixture
def note(record_property):
  """(fault, outcome, exit code, seconds until it was where it had been)."""

  def note(fault, outcome, code, seconds):
    record_property("row", (fault, outcome, str(code), f"{seconds:.1f}"))

  return note


def pytest_terminal_summary(terminalreporter):
  reports = [r for found in terminalreporter.stats.values() for r in found]
  rows = [
    value
    for report in reports
    for name, value in getattr(report, "user_properties", ())
    if name == "row" and report.when == "call"
  ]
  if rows:
    terminalreporter.section("faults")
    for row in (_HEAD, ["---"] * len(_HEAD), *rows):
      terminalreporter.write_line(f"| {' | '.join(row)} |")


@pytest.fixture(scope="session")
def undisturbed(tiny, tmp_path_factory):
  """number of processes -> workdir of a finished run; also its command."""
  done = {}

  def run(processes=1):
    if processes not in done:
      workdir = tmp_path_factory.mktemp(f"undisturbed-{processes}-")
      fewer = FEWER if processes > 2 else ()
      command = running.command(tiny, workdir, *FLAGS, *fewer)
      code, output = running.run(command, processes)
      assert code == 0, output
      done[processes] = workdir
    return done[processes]

  run.flags, run.fewer = FLAGS, FEWER
  return run


@pytest.fixture
def command(tiny, tmp_path):
  """The command of a run in a workdir of its own."""
  return running.command(tiny, tmp_path / "run", *FLAGS)


@pytest.fixture
def recovered(tmp_path, command, undisturbed):
  """Repeats the command after a fault; seconds until it was where it was.

  Asserts that the run ends with the bits of the undisturbed one.
  """

  def recover(processes=1, like=None, **more):
    workdir = tmp_path / "run"
    words, last = command, 40
    if processes > 2:
      words, last = [*command, *FEWER], 20
    code, output, seconds = running.recover(words, workdir, processes, **more)
    assert code == 0, output
    expected = like or undisturbed(processes)
    running.assert_same_state(
      running.saved(workdir, last), running.saved(expected, last)
    )
    found, wanted = running.losses(workdir), running.losses(expected)
    assert str(found) == str(wanted)  # NaN is not equal to itself.
    return seconds, output

  return recover
