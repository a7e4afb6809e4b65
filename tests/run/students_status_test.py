"""`status` of a run of several students, told from files."""

import json
import time

import pytest
from saving import lay_out

from time_jax.cli import main

NAMES = ("m", "s", "xs")


def record(workdir, name, *, step=100, end=None, skipped=0, held_out=True):
  """What a student writes down, a record a second."""
  now = time.time()
  rows = [
    {
      "step": number,
      "train/loss": 3 - number / 100,
      "train/skipped": skipped,
      "time/unix": now - (step - number) / 10,
    }
    for number in range(10, step + 1, 10)
  ]
  if held_out:
    rows.insert(-1, {"step": 50, "eval/loss": 1.5})
  sessions = [{"event": "start", "time": now - step / 10}]
  if end is not None:
    sessions.append({"event": "end", "time": now, "code": end, "why": "NaN"})
  folder = workdir / "students" / name
  for kind, lines in (("metrics", rows), ("sessions", sessions)):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{kind}.jsonl").write_text(text)
  (folder / "config.json").write_text('{"train": {"num_steps": 1000}}')


@pytest.fixture
def workdir(tmp_path):
  lay_out(tmp_path, NAMES)
  for name in NAMES:
    record(tmp_path, name)
  return tmp_path


def told(capsys, workdir):
  """(exit code, the lines that are printed)."""
  code = main.main(["status", str(workdir)])
  output = capsys.readouterr()
  assert not output.err
  return code, output.out.splitlines()


def test_a_line_for_each(capsys, workdir):
  record(workdir, "s", held_out=False)
  record(workdir, "xs", skipped=3)
  code, lines = told(capsys, workdir)
  assert code == 0
  first, above, *table, below, last = lines
  assert above == below == ""
  assert first == f"{workdir}: 3 running, step 100 of 1,000 (10.0%)"
  assert table == [
    "  student  state    step  training  held-out  skipped",
    "  m        running   100    2.0000    1.5000        0",
    "  s        running   100    2.0000         -        0",
    "  xs       running   100    2.0000    1.5000        3",
  ]
  assert last == f"Next: python -m time_jax status {workdir}/students/m"


def test_one_that_has_ended_and_others_that_go_on(capsys, workdir):
  record(workdir, "s", step=40, end=3)
  code, (first, _, _, m, s, xs, _, last) = told(capsys, workdir)
  assert code == 3
  assert first == f"{workdir}: 2 running, 1 failed, step 100 of 1,000 (10.0%)"
  assert s.split()[:3] == ["s", "failed", "40"]
  assert m.split()[1] == xs.split()[1] == "running"
  assert last == f"Next: python -m time_jax status {workdir}/students/s"


def test_all_are_done(capsys, workdir):
  for name in NAMES:
    record(workdir, name, end=0)
  code, lines = told(capsys, workdir)
  assert code == 0 and lines[0].startswith(f"{workdir}: 3 done, step 100")
  following = f"Next: python -m time_jax choose --workdir={workdir}/students/m"
  assert lines[-1] == following


def test_one_that_has_written_nothing(capsys, workdir):
  for path in (workdir / "students" / "m").glob("*.jsonl"):
    path.unlink()
  code, lines = told(capsys, workdir)
  assert code == 0
  assert (
    lines[0] == f"{workdir}: 1 unknown, 2 running, step 100 of 1,000 (10.0%)"
  )
  assert lines[3].split() == ["m", "unknown", "0", "-", "-", "-"]


def test_none_has_written_anything(capsys, tmp_path):
  lay_out(tmp_path, NAMES)
  assert main.main(["status", str(tmp_path)]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"no run in {tmp_path}: none of the students m, s, xs has" in line


def test_checkpoints_and_damage_are_those_of_the_run(capsys, workdir):
  for name in ("checkpoints/40", "checkpoints/1000", "damaged/30"):
    (workdir / name).mkdir(parents=True)
  code, lines = told(capsys, workdir / "students" / "xs")
  assert code == 0 and lines[0].endswith("/xs: done, step 100 of 1,000 (10.0%)")
  (checkpoints,) = [line for line in lines if line.startswith("  check")]
  assert checkpoints.split(None, 1)[1] == (
    f"2, the newest of step 1,000; 1 damaged in {workdir}/damaged"
  )
  assert told(capsys, workdir)[1][0].startswith(f"{workdir}: 3 done, ")
