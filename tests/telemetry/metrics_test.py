"""What a run leaves behind for its readers."""

import json
import math
import struct
import subprocess
import sys

import numpy as np
from tensorboardX.proto import event_pb2

from time_jax.core.storage import atomic_file
from time_jax.telemetry import history, metrics
from time_jax.telemetry.history import METRIC

STUDENT = "student"


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def record(workdir, first, steps, active=True, **more):
  with metrics.Recorder({STUDENT: workdir}, first, 10, active) as recorder:
    for step in steps:
      recorder.write(step, {STUDENT: {"train/loss": step / 4, **more}})
      recorder.advance()


def events(workdir):
  """All events of a workdir, oldest file first.

  A record is length, checksum, data, checksum; the checksums are left alone.
  """
  found = []
  for path in sorted((workdir / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      (size,) = struct.unpack_from("<Q", data)
      found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def scalars(workdir):
  return [
    (event.step, value.tag, value.simple_value)
    for event in events(workdir)
    for value in event.summary.value
  ]


def starts(workdir):
  """Steps from which on TensorBoard forgets what came earlier."""
  log = event_pb2.SessionLog.START
  return [e.step for e in events(workdir) if e.session_log.status == log]


def test_rows_are_written_at_once(tmp_path):
  with metrics.Recorder({STUDENT: tmp_path}, 0, 10, True) as recorder:
    recorder.write(1, {STUDENT: {"train/loss": 0.5, "data/tokens": 7}})
    assert lines(tmp_path) == [{"step": 1, "train/loss": 0.5, "data/tokens": 7}]
    recorder.write(2, {STUDENT: {"eval/loss": 0.25}})
  assert lines(tmp_path)[1] == {"step": 2, "eval/loss": 0.25}
  assert history.read_metrics(tmp_path) == lines(tmp_path)


def test_a_resumed_run_drops_what_comes_again(tmp_path):
  record(tmp_path, 0, range(7), run=1.0)
  record(tmp_path, 4, range(5, 9), run=2.0)
  found = [(row["step"], row["run"]) for row in lines(tmp_path)]
  old = [(step, 1.0) for step in range(5)]
  assert found == old + [(step, 2.0) for step in range(5, 9)]
  assert starts(tmp_path)[-1] == 5


def test_a_run_that_saved_nothing_starts_anew(tmp_path):
  """Also its evaluation of step 0, which is done again."""
  record(tmp_path, 0, range(3), run=1.0)
  record(tmp_path, 0, range(2), run=2.0)
  found = [(row["step"], row["run"]) for row in lines(tmp_path)]
  assert found == [(0, 2.0), (1, 2.0)]
  assert starts(tmp_path)[-1] == 0


def test_a_torn_last_line_is_dropped(tmp_path):
  record(tmp_path, 0, range(1, 4))
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text()[:-9])
  assert [row["step"] for row in history.read_metrics(tmp_path)] == [1, 2]
  record(tmp_path, 3, [4])
  assert [row["step"] for row in lines(tmp_path)] == [1, 2, 4]


def test_the_held_out_loss_of_an_earlier_version(tmp_path):
  """Its relation loss was its loss, but not where it had hidden states."""
  rows = [
    {"eval/relation_loss": 2.0},
    {"eval/relation_loss": 2.0, METRIC: 3.0, "eval/hidden": 1.0},
    {"eval/relation_loss": 2.0, "eval/hidden": 1.0},
  ]
  for step, row in enumerate(rows, 1):
    record(tmp_path, step - 1, [step], **row)
  curve = history.curve(history.read_metrics(tmp_path), METRIC)
  assert curve == [(1, 2.0), (2, 3.0)]


def test_no_metrics_yet(tmp_path):
  assert history.read_metrics(tmp_path) == []


def test_json_has_null_for_what_is_no_number(tmp_path):
  """NaN is no JSON; readers find a row without that value, as of old rows."""
  numbers = {"a/nan": math.nan, "b/inf": -math.inf, "c/one": 1.0}
  path = tmp_path / "metrics.jsonl"
  for first, text in ((0, '{"step": 1, '), (1, '{"step": 2, ')):
    with metrics.Recorder({STUDENT: tmp_path}, first, 10, True) as recorder:
      recorder.write(first + 1, {STUDENT: numbers})
    last = path.read_text().splitlines()[-1]
    assert last == text + '"a/nan": null, "b/inf": null, "c/one": 1.0}'
  path.write_text(path.read_text().replace("null", "NaN"))  # As it was before.
  record(tmp_path, 2, [])
  assert path.read_text().count("null") == 4 and "NaN" not in path.read_text()
  assert history.read_metrics(tmp_path) == [
    {"step": 1, "c/one": 1.0},
    {"step": 2, "c/one": 1.0},
  ]
  nested = {"mean": (math.inf, [{"x": math.nan}]), 3: True, "name": "NaN"}
  atomic_file.write_json(tmp_path / "a.json", nested)
  assert json.loads((tmp_path / "a.json").read_text()) == {
    "mean": [None, [{"x": None}]],
    "3": True,
    "name": "NaN",
  }


def test_tensorboard_has_the_same_numbers(tmp_path):
  record(tmp_path, 0, [1, 2], **{"eval/loss": 0.125})
  assert sorted(scalars(tmp_path)) == [
    (1, "eval/loss", 0.125),
    (1, "train/loss", 0.25),
    (2, "eval/loss", 0.125),
    (2, "train/loss", 0.5),
  ]


def test_pytorch_is_not_imported():
  """Nor hidden from whoever needs it later."""
  program = (
    "import sys; from time_jax.telemetry import metrics; "
    "sys.exit('torch' in sys.modules)"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def test_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
  """A log gets a line at once, then one a minute; what is said, always."""
  clock = iter([0.0, 0.0, 59.0, 61.0, 61.0])
  with metrics.Recorder({STUDENT: tmp_path}, 0, 90, True) as recorder:
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
      recorder._files[STUDENT].board, "write", lambda *_: None
    )
    recorder.write(10, {STUDENT: {"train/loss": 1.0}})
    recorder.say("half of it")
    recorder.write(20, {STUDENT: {"train/loss": 0.9}})
    recorder.write(20, {STUDENT: {"eval/loss": 0.5}})
    recorder.write(
      30,
      {
        STUDENT: {
          "train/loss": 0.5,
          "perf/steps_per_second": 1 / 60,
          "data/tokens": 7,
        }
      },
    )
    monkeypatch.undo()
  found = capsys.readouterr()
  assert found.err.splitlines() == [
    "step 10 of 90: loss 1.0000",
    "half of it",
    "step 30 of 90: loss 0.5000 left 1:00:00",
  ]
  assert found.out == ""


def test_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
  with metrics.Recorder({STUDENT: tmp_path}, 3, 10, True) as recorder:
    recorder.write(
      4,
      {
        STUDENT: {
          "train/loss": 1.25,
          "train/kl_qq": 0.5,
          "train/learning_rate": 3e-4,
          "perf/tokens_per_second": 12345.6,
          "perf/input_wait": 0.071,
          "data/checksum": 987654321,
        }
      },
    )
    recorder.advance()
  shown = capsys.readouterr().err
  assert "loss 1.2500 qq 0.500 lr 3.0e-04 12,346 tok/s wait 7%" in shown
  assert "3/10" in shown and "4/10" in shown and "987654321" not in shown


def test_other_processes_write_nothing(tmp_path, capsys):
  with metrics.Recorder({STUDENT: tmp_path}, 0, 10, False) as recorder:
    recorder.write(1, {STUDENT: {"train/loss": 1.0}})
    recorder.advance()
    recorder.say("hello")
  assert not list(tmp_path.iterdir())
  assert capsys.readouterr() == ("", "")


def test_what_was_no_number_is_not_left_out_of_a_curve():
  """The last good loss would look like the current one."""
  rows = [{"step": 1, "a": 2.0}, {"step": 2, "a": None}, {"step": 3}]
  (first, second) = history.curve(rows, "a")
  assert first == (1, 2.0) and second[0] == 2 and np.isnan(second[1])


def test_the_curve_is_drawn(tmp_path):
  record(tmp_path, 0, [1, 2, 3])
  with metrics.Recorder({STUDENT: tmp_path}, 3, 10, True) as recorder:
    recorder.write(4, {STUDENT: {"eval/loss": 0.5, "train/loss": math.nan}})
  path = history.plot_losses(tmp_path)
  assert path == tmp_path / "loss.png"
  assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_no_curve_of_nothing(tmp_path):
  assert history.plot_losses(tmp_path) is None
  with metrics.Recorder({STUDENT: tmp_path}, 0, 10, True) as recorder:
    recorder.write(1, {STUDENT: {"data/tokens": 5}})
  assert history.plot_losses(tmp_path) is None
  assert not (tmp_path / "loss.png").exists()


def test_each_of_several_students_has_records_of_its_own(tmp_path, capsys):
  folders = {name: tmp_path / name for name in ("m", "xs")}
  for folder in folders.values():
    folder.mkdir()
  with metrics.Recorder(folders, 0, 10, True) as recorder:
    speed = {"perf/tokens_per_second": 1234.0}
    recorder.write(
      1,
      {
        "m": {"train/loss": 0.5, "train/kl_qq": 0.1} | speed,
        "xs": {"train/loss": 0.75, "train/kl_qq": 0.2} | speed,
      },
    )
    recorder.write(2, {"xs": {"eval/loss": 0.25}})
  assert [row.get("train/loss") for row in lines(folders["m"])] == [0.5]
  assert [row["step"] for row in lines(folders["xs"])] == [1, 2]
  assert scalars(folders["xs"])[-1] == (2, "eval/loss", 0.25)
  (line,) = capsys.readouterr().err.splitlines()
  assert line == "step 1 of 10: m loss 0.5000 xs loss 0.7500 1,234 tok/s"
  with metrics.Recorder(folders, 1, 10, True) as recorder:
    recorder.write(2, {"xs": {"train/loss": 0.5}})  # The other has ended.
  assert capsys.readouterr().err == "step 2 of 10: xs loss 0.5000\n"
  with metrics.Recorder(folders, 1, 10, True):
    pass
  assert [row["step"] for row in lines(folders["xs"])] == [1]
