"""How a run is doing, told from files: whole, torn, damaged, missing."""

import json
import subprocess
import sys
import time

import pytest
import running

from time_jax.cli import main
from time_jax.core import errors
from time_jax.run import status
from time_jax.telemetry import history

HOUR = 3600.0
LAST = range(910, 1001, 10)


def write(
  workdir, *, age=5.0, steps=range(10, 101, 10), end=None, starts=1, saved=()
):
  """A run whose last record is `age` seconds old, one record a second."""
  now = time.time()
  last = now - age
  rows = []
  for step in steps:
    when = last - (steps[-1] - step) / 10
    rows.append(
      {
        "step": step,
        "train/loss": 3 - step / 100,
        "train/skipped": 2,
        "perf/steps_per_second": 10.0,
        "perf/tokens_per_second": 1234.0,
        "perf/input_wait": 0.05,
        "time/unix": when,
        "time/steps": step * 0.06,
        "time/input": step * 0.02,
      }
    )
    if step % 50 == 0:
      rows.append({"step": step, "eval/loss": 2 - step / 100})
  first = last - steps[-1] / 10
  sessions = [
    {
      "event": "start",
      "time": first + i * 0.1,
      "processes": 4,
      "devices": 16,
      "kind": "TPU v5 lite",
    }
    for i in range(starts)
  ]
  if end is not None:
    why = {42: "Preempted", 3: "RunError: no space"}.get(end, "")
    sessions.append({"event": "end", "time": last, "code": end, "why": why})
  for name, lines in (("metrics", rows), ("sessions", sessions)):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / f"{name}.jsonl").write_text(text)
  (workdir / "config.json").write_text('{"train": {"num_steps": 1000}}')
  for name in ("40", "80", *map(str, saved), "120.orbax-checkpoint-tmp"):
    (workdir / "checkpoints" / name).mkdir(parents=True, exist_ok=True)


def told(capsys, workdir, *flags):
  """(exit code, what is printed)."""
  code = main.main(["status", str(workdir), *flags])
  output = capsys.readouterr()
  assert not output.err
  return code, output.out


def test_a_run_that_goes_on(capsys, tmp_path):
  write(tmp_path, starts=3)
  code, text = told(capsys, tmp_path)
  assert code == 0
  first, health, speed, goodput, restarts, checkpoints, skipped, *rest = (
    text.splitlines()
  )
  assert first == f"{tmp_path}: running, step 100 of 1,000 (10.0%)"
  assert health.endswith("last sign 5 s ago, usually every 1 s")
  assert speed.split(None, 1)[1] == (
    "10 steps/s, 1,234 tokens/s, 5% of it waiting for input; 90 s left"
  )
  # 6 of 10 seconds went into steps, 2 into waiting for input.
  assert goodput.split(None, 1)[1] == (
    "60.0% of 10 s; input 20.0%, lost or down 20.0%"
  )
  assert restarts.split(None, 1)[1] == (
    "2; last on 16 x TPU v5 lite in 4 process(es)"
  )
  assert checkpoints.split(None, 1)[1] == "2, the newest of step 80"
  assert skipped.split(None, 1)[1] == "2 steps"
  assert [line.split() for line in rest[1:4]] == [
    ["step", "training", "held-out"],
    ["50", "2.5000", "1.5000"],
    ["100", "2.0000", "1.0000"],
  ]
  assert rest[-1] == f"Next: python -m time_jax status {tmp_path}"


@pytest.mark.parametrize(
  ("given", "word", "words", "code"),
  [
    ({"age": 100}, "running", "last sign 100 s ago", 0),
    ({"age": HOUR}, "silent", "it hangs, was killed, or lost its host", 3),
    ({"age": HOUR, "end": 0}, "done", "ended 60.0 min ago", 0),
    ({"end": 42, "age": 9}, "stopped", "Preempted 9 s ago; start it again", 0),
    ({"end": 3}, "failed", "RunError: no space (5 s ago)", 3),
    ({"steps": LAST, "saved": [1000]}, "done", "all steps are done", 0),
    ({"steps": LAST}, "running", "last sign 5 s ago", 0),  # It evaluates.
    ({"steps": LAST, "age": HOUR}, "silent", "was killed", 3),
  ],
)
def test_what_state_it_is_in(capsys, tmp_path, given, word, words, code):
  write(tmp_path, **given)
  found, text = told(capsys, tmp_path)
  assert found == code
  head, health = text.splitlines()[:2]
  assert f": {word}, step" in head and words in health
  last = text.splitlines()[-1]
  assert ("goes on where it was" in last) == (
    word in ("silent", "failed", "stopped")
  )


def test_a_run_that_starts_again_has_time_to(capsys, tmp_path):
  write(tmp_path, age=HOUR)
  with (tmp_path / "sessions.jsonl").open("a") as file:
    file.write(json.dumps({"event": "start", "time": time.time() - 600}) + "\n")
  code, text = told(capsys, tmp_path)
  assert code == 0 and "running" in text and ", starting" in text


def test_damaged_files_cost_what_they_damage(capsys, tmp_path):
  write(tmp_path)
  (tmp_path / "config.json").write_text('{"train": ')
  with (tmp_path / "metrics.jsonl").open("ab") as file:
    file.write(b'\xff\x00\n[1]\n7\n{"step": "x"}\n{"step": 110, "train/lo')
  with (tmp_path / "sessions.jsonl").open("a") as file:
    file.write('{"event": "end"}\n{"event": 3, "time": []}\n')
  code, text = told(capsys, tmp_path)
  assert code == 0 and ": running, step 100\n" in text
  (note,) = [line for line in text.splitlines() if "note" in line]
  assert "config.json cannot be read (JSONDecodeError)" in note
  assert "4 unreadable line(s) of metrics.jsonl left out" in note


def test_files_that_are_missing(capsys, tmp_path):
  write(tmp_path)
  (tmp_path / "sessions.jsonl").unlink()
  code, text = told(capsys, tmp_path)
  assert code == 0 and "running" in text and "goodput" not in text
  write(tmp_path)
  (tmp_path / "metrics.jsonl").unlink()
  code, text = told(capsys, tmp_path)
  assert code == 0 and "running, step 0 of 1,000" in text
  assert "starting" in text and "training" not in text


@pytest.mark.parametrize("name", ["", "nothing", "file", "file/run"])
def test_no_run(capsys, tmp_path, name):
  (tmp_path / "file").write_text("{")
  assert main.main(["status", str(tmp_path / name)]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"no run in {tmp_path / name}: neither metrics.jsonl nor" in line


def test_the_plot(capsys, tmp_path):
  write(tmp_path)
  code, text = told(capsys, tmp_path, f"--plot={tmp_path}/losses.img")
  assert code == 0 and f"plot         {tmp_path}/losses.img" in text
  assert (tmp_path / "losses.img").read_bytes().startswith(b"\x89PNG")
  assert main.main(["status", str(tmp_path), "--plot=/no/where.png"]) == 2
  assert "cannot write --plot=/no/where.png: No such" in capsys.readouterr().err


def test_it_needs_no_jax(tmp_path):
  write(tmp_path)
  program = (
    "import sys; from time_jax.cli import main; "
    f"code = main.main(['status', {str(tmp_path)!r}]); "
    "heavy = {'jax', 'numpy', 'matplotlib', 'transformers'} & {*sys.modules}; "
    "sys.exit(f'imported {heavy}' if heavy - {'numpy'} else code)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=running.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("error", "ended"), [(KeyboardInterrupt, 130), (errors.Stopped, 42)]
)
def test_a_run_that_was_interrupted_is_no_bug(capsys, tmp_path, error, ended):
  write(tmp_path)
  with pytest.raises(error), history.session(tmp_path, True, time=time.time()):
    raise error
  *_, session = history.read_sessions(tmp_path)
  code, why = errors.exit_status(error())
  assert session["code"] == code == ended and session["why"] == why
  code, text = told(capsys, tmp_path)
  assert code == 0 and text.startswith(f"{tmp_path}: stopped, step 100 of")


def test_a_long_run_gives_a_short_table(tmp_path, capsys):
  write(tmp_path, steps=range(10, 20_001, 10))
  assert len(told(capsys, tmp_path)[1].splitlines()) < 22


def test_durations_are_short():
  seconds = (0.02, 3, 119, 121, 7300, 200_000)
  found = [status._duration(s) for s in seconds]
  assert found == ["0.02 s", "3 s", "119 s", "2.0 min", "2.0 h", "2.3 d"]
