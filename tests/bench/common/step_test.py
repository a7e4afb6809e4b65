"""Rates follow from times; what does not belong into the times is not there."""

import contextlib
import io
import itertools
import json
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest
import small_run
from tiny_recipe import get_config

from time_jax.bench.common import report, step
from time_jax.bench.common.step_runner import StepRunner
from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.parallel import processes
from time_jax.run import corpus
from time_jax.step import machine, peaks

ROWS, LENGTH = 8, 32  # of the tiny recipe


def bench(tiny, *more):
  """Exit code and standard output."""
  out = io.StringIO()
  recipe = f"--config=tests/support/tiny_recipe.py:{tiny}"
  with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
    # Other tests in this process have used the devices already.
    patch.setattr(processes, "initialize", lambda: None)
    code = main.main(["bench", "step", recipe, *more])
  return code, out.getvalue()


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
  """Standard output and JSON of one measurement, text included."""
  folder = tmp_path_factory.mktemp("bench")
  code, text = bench(
    tiny,
    "--steps=6",
    "--warmup=1",
    "--peak_tflops=2.5",
    f"--workdir={folder}",
    f"--json={folder / 'report.json'}",
  )
  assert code == 0
  return text, json.loads((folder / "report.json").read_text())


def test_the_report_has_the_fields_of_its_schema(measured):
  _, found = measured
  assert found["schema"] == "time_jax.bench.step/3"
  assert {"kind", "n_devices", "n_processes", "mesh"} < set(found["hardware"])
  assert found["hardware"]["n_devices"] == 8
  assert found["hardware"]["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
  assert {"jax", "jaxlib", "git", "xla_flags"} < set(found["software"])
  shape = found["shape"]
  assert (shape["global_batch"], shape["seq"]) == (ROWS, LENGTH)
  assert shape["layers_run"] == 2
  assert {name: own["A_r"] for name, own in shape["students"].items()} == {
    "student": 4
  }
  assert found["by_student"] is None  # There is one.
  assert shape["remat"] == "attention"
  compiled = found["time"]
  assert compiled["cache"] in ("cold", "warm")
  assert 0 < compiled["compile_s"] < compiled["first_step_s"]
  memory = found["memory"]
  assert memory["device_peak"] is None  # A CPU does not say.
  assert memory["host_peak"] > 10e6
  program = memory["program"]
  assert program["total"] == (
    program["arguments"]
    + program["outputs"]
    - program["aliased"]
    + program["temporaries"]
  )
  assert program["aliased"] > 0  # The state is donated.


def test_rates_follow_from_the_times(measured):
  _, found = measured
  for one in found, found["loader"]:
    step, rate = one["time"]["step_s"], one["throughput"]
    assert step["n"] == 6
    assert 0 < step["min"] <= step["p50"] <= step["p90"] <= step["p99"]
    assert step["p99"] <= step["max"]
    assert rate["sequences_s"] == pytest.approx(ROWS / step["mean"])
    assert rate["tokens_s"] == pytest.approx(ROWS * LENGTH / step["mean"])
    assert rate["tokens_s_per_device"] == pytest.approx(rate["tokens_s"] / 8)
    per_device = found["flops"]["total"] / step["mean"] / 8 / 1e12
    assert rate["model_tflops_s_per_device"] == pytest.approx(per_device)
    assert rate["mfu"] == pytest.approx(per_device / 2.5)
    assert 0 <= one["time"]["input_wait_frac"] < 1


def test_padding_is_not_counted_as_tokens(measured):
  _, found = measured
  reused = found["throughput"]
  assert reused["real_tokens_s"] == pytest.approx(reused["tokens_s"])
  loader = found["loader"]["throughput"]
  assert 0.5 < loader["real_tokens_s"] / loader["tokens_s"] < 1


def test_the_table_shows_the_report(measured):
  text, found = measured
  assert "MFU is of 2.5 TFLOP/s, dense, per device (--peak_tflops)" in text
  assert f"({found['time']['cache']} cache)" in text
  lines = text.splitlines()
  (header,) = (line for line in lines if line.endswith("loader"))
  assert "one batch, reused" in header
  rates = [one["throughput"] for one in (found, found["loader"])]
  (line,) = (line for line in lines if line.startswith("real tokens/s"))
  assert line.split()[2:] == [f"{r['real_tokens_s']:,.1f}" for r in rates]
  assert "not measured" not in text


@pytest.mark.usefixtures("one_device")
def test_several_students(monkeypatch, capsys, tmp_path):
  seen = []

  def measure(runner, batch, steps, temporaries):
    seen.append((list(runner.configs), batch.tokens.shape, steps, temporaries))
    return {"measured": 1}

  monkeypatch.setattr(processes, "initialize", lambda: None)
  monkeypatch.setattr(step.by_student, "measure", measure)
  monkeypatch.setattr(step.by_student, "as_text", str)
  file = tmp_path / "report.json"
  wide = "--config.students.wide.student.hidden_size=24"
  words = [*small_run.flags(), wide, "--config.students.xs={}"]
  words += ["--steps=2", "--warmup=0", f"--json={file}"]
  assert main.main(["bench", "step", *words]) == 0
  found = json.loads(file.read_text())
  temporaries = found["memory"]["program"]["temporaries"]
  assert seen == [(["wide", "xs"], (16, 128), 2, temporaries)]
  assert found["by_student"] == {"measured": 1}
  text = capsys.readouterr().out
  assert "wide 2 x 24 in float32, xs 2 x 16 in float32" in text
  assert "{'measured': 1}" in text
  assert main.main(["bench", "step", *words, f"{wide[:-2]}6"]) == 2
  assert ": wide: relations.num_heads=4 must" in capsys.readouterr().err


def test_without_a_place_for_text_the_loader_is_left_out(tiny):
  config = get_config(tiny)
  rows, reason = step.open_rows(config, None, False, 155)
  assert rows is None
  assert reason.startswith("text needs a place to be prepared in; give --work")
  with pytest.raises(UserError, match="--real_rows: text needs a place"):
    step.open_rows(config, None, True, 155)


def test_synthetic_rows_are_read_when_told_to(tiny):
  config = get_config(tiny)
  config.data.synthetic_rows = 64
  rows, reason = step.open_rows(config, None, False, 155)
  assert rows is None and "--real_rows" in reason
  rows, reason = step.open_rows(config, None, True, 155)
  assert len(rows) == 64 and not reason


def test_a_random_teacher_reads_rows_of_another_tokenizer(tiny, tmp_path):
  prepared = get_config(tiny)
  corpus.prepare_corpus(prepared, tmp_path, 155)
  config = small_run.make_config(data__synthetic_rows=0, data__seq_len=32)
  config.data.folder = str(tmp_path / "data")
  rows, reason = step.open_rows(config, None, True, 200)
  expected = corpus.open_corpus(prepared, tmp_path, 155).train
  assert len(rows) == len(expected) and not reason
  with pytest.raises(UserError, match="32 tokens out of 155; .* of the 64 of"):
    step.open_rows(config, None, True, 64)
  config.data.seq_len = 64
  with pytest.raises(
    UserError, match="rows of 32 tokens .* expected 64, which"
  ):
    step.open_rows(config, None, True, 200)
  config.data.folder = str(tmp_path)
  with pytest.raises(UserError, match="a random teacher has no tokenizer; exp"):
    step.open_rows(config, None, True, 200)


def test_an_unknown_device_has_no_mfu(measured):
  _, found = measured
  found["hardware"] |= {"peak_tflops_dense": None, "peak_source": None}
  for one in found, found["loader"]:
    one["throughput"]["mfu"] = None
  text = step.as_text(found)
  assert "the peak of this device is not known; give --peak_tflops" in text
  (line,) = (x for x in text.splitlines() if x.startswith("MFU  "))
  assert line.split() == ["MFU", "-", "-"]


def fake_run(seconds=0.0):
  """A run whose step takes some time and keeps books."""
  calls = []

  def one(states, teacher_params, batch):
    calls.append(batch)
    time.sleep(seconds)
    states = {name: state + 1 for name, state in states.items()}
    return states, {"student": {"data/tokens": jnp.asarray(batch)}}

  parallel = types.SimpleNamespace(step=one)
  run = StepRunner(
    {"student": None}, None, {}, {"student": jnp.zeros(())}, None
  )
  run.parallels["student",] = parallel
  return run, calls


def test_a_window_is_made_of_its_steps():
  run, calls = fake_run(0.02)
  start = time.perf_counter()
  window = run.window(iter([1, 2, 3, 4, 5, 6]), 5)
  whole = time.perf_counter() - start
  assert calls == [1, 2, 3, 4, 5]
  assert window.real_tokens == 15
  assert int(run.states["student"]) == 5
  assert len(window.seconds) == 5
  assert 0.1 <= sum(window.seconds) <= whole
  assert window.waited < 0.05


def test_a_slow_loader_shows():
  run, _ = fake_run()

  def slow():
    for number in itertools.count():
      time.sleep(0.02)
      yield number

  window = run.window(slow(), 5)
  assert 0.1 <= window.waited <= sum(window.seconds)


def test_a_window_of_no_steps():
  run, calls = fake_run()
  assert run.window(iter([]), 0).seconds == []
  assert not calls


def test_a_known_device_names_its_peak(monkeypatch):
  kind = "NVIDIA H200"
  device = types.SimpleNamespace(device_kind=kind, platform="gpu")
  monkeypatch.setattr(report.jax, "devices", lambda: [device] * 4)
  for dtype, peak in (("bfloat16", 989), ("float32", 494.5)):
    hardware = machine.environment({"data": 4}, dtype)["hardware"]
    assert hardware["kind"] == kind
    assert hardware["n_devices"] == 4
    assert hardware["peak_tflops_dense"] == peak
    assert hardware["peak_source"] == peaks.PEAKS[kind].source


def test_percentiles():
  found = report.spread([float(i) for i in range(101)])
  assert (found["p50"], found["p90"], found["p99"]) == (50, 90, 99)
  assert (found["min"], found["max"], found["n"]) == (0, 100, 101)
  assert found["mean"] == np.mean(range(101))


def test_what_is_wrong_is_told_before_the_work(capsys, tiny, tmp_path):
  assert bench(tiny, "--config.train.global_batch_size=0") == (2, "")
  assert "train.global_batch_size=0, expected" in capsys.readouterr().err
  missing = tmp_path / "missing" / "report.json"
  assert bench(tiny, f"--json={missing}") == (2, "")
  assert f"--json={missing} cannot be written" in capsys.readouterr().err
