"""--profile traces the steps that it says, and no others."""

import pytest
import running

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.telemetry import profiling


@pytest.mark.parametrize(
  ("first", "traced"), [(0, (3, 6)), (3, (4, 6)), (4, (5, 6)), (5, ())]
)
def test_where_tracing_turns(tmp_path, first, traced):
  tracer = profiling.Tracer(tmp_path, range(3, 6), first, active=False)
  steps = range(first + 1, 20)
  assert tuple(step for step in steps if tracer.turns(step)) == traced


@pytest.mark.parametrize(
  "text", ["3", "3:", ":3", "0:2", "3:3", "5:3", "a:b", "-1:3", "2:10"]
)
def test_windows_that_are_none(capsys, tiny, tmp_path, text):
  with pytest.raises(UserError, match=f"^--profile={text} is no window"):
    profiling.read_window(text, 8)
  words = running.command(tiny, tmp_path / "run", f"--profile={text}")
  assert main.main([*words, "--config.train.num_steps=8"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    f"time_jax: error: --profile={text} is no window of steps; expected "
    "START:STOP such as 10:15, which traces steps 10 to 14; this run has steps "
    "1 to 8."
  )
  assert not (tmp_path / "run").exists()


def test_the_last_step_can_be_traced():
  assert profiling.read_window("8:9", 8) == range(8, 9)
  assert not profiling.read_window("", 8)
