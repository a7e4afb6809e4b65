"""Compiling ahead: what the report says is what the program is."""

import dataclasses
import importlib.util
import json
import math

import jax
import pytest
import small_run

from time_jax.bench.aot import aot, fit, rendering, topology
from time_jax.bench.aot.variant_report import Estimate, Memory, Report
from time_jax.cli import main
from time_jax.core.errors import UserError

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="no libtpu"
)


def examine(name="cpu:8", **fields):
  return fit.examine(small_run.make_config(**fields), topology.find(name))


@pytest.fixture(scope="module")
def split():
  """Parameters and work split over eight devices, two micro-batches."""
  return examine(mesh__fsdp=4, mesh__tensor=2, train__accumulation=2)


@pytest.fixture(scope="module")
def replicas():
  """Two whole copies, and the relation loss by its definition."""
  return examine("cpu:2", relations__implementation="dense")


def test_bytes_of_a_device(split, replicas):
  assert split.mesh == {"data": 1, "fsdp": 4, "tensor": 2}
  memory = split.memory
  parts = dataclasses.asdict(memory)
  total = parts.pop("total")
  assert total == sum(parts.values())
  assert memory.padding == 0  # A CPU's layouts have none.
  assert memory.batch == 3 * (16 // 4) * 128 * 4
  # Two moments of what is trained, split like the parameters themselves.
  assert memory.optimizer < 2 * memory.parameters
  assert split.optimizer_total / memory.optimizer == pytest.approx(4, rel=0.3)
  whole = replicas.memory
  assert replicas.optimizer_total == whole.optimizer == split.optimizer_total
  assert whole.teacher > 3 * memory.teacher
  assert (split.rows_per_device, replicas.rows_per_device) == (2, 8)
  assert split.flops == replicas.flops


def test_what_devices_exchange(split, replicas):
  kinds = {one.kind: one for one in split.collectives}
  assert {"all-reduce", "all-gather"} <= set(kinds)
  assert all(0 < one.sent < 2 * one.payload for one in split.collectives)
  kind, sent, scope = split.exchanges[0]
  assert sent <= kinds[kind].sent and "train_step" in scope
  (total,) = replicas.collectives
  assert total.kind == "all-reduce" and total.sent == total.payload
  # All gradients are summed once, and little else: one for two moments.
  assert total.payload == pytest.approx(replicas.optimizer_total / 2, rel=0.02)


def test_micro_batches_exchange_nothing_more():
  """Weights are gathered and gradients reduced once, however many they are."""
  few, many = (
    examine(
      mesh__fsdp=4, train__global_batch_size=64, train__accumulation=count
    ).collectives
    for count in (2, 8)
  )
  payloads = {total.kind: total.payload for total in few}
  assert payloads == {total.kind: total.payload for total in many}
  assert payloads["all-to-all"] > 0


def test_relation_matrices_of_all_heads_are_seen(split, replicas):
  assert split.heads_at_once <= 1
  assert replicas.heads_at_once == 4
  assert "f32[8,4,128,128]" in replicas.relation_matrices
  text = "\n".join(rendering.lines(replicas, small_run.make_config()))
  assert "matrices of 4 head(s) at a time" in text and "ALL 4" in text


def run(capsys, *words):
  code = main.main(["bench", "aot", *words])
  output = capsys.readouterr()
  return code, output.out, output.err


def test_the_report(capsys, monkeypatch, tmp_path, split):
  monkeypatch.setattr(aot, "examine", lambda *_: split)
  words = small_run.flags(mesh__fsdp=4, mesh__tensor=2, train__accumulation=2)
  file = tmp_path / "aot.json"
  code, out, err = run(capsys, *words, "--topology=cpu:8", f"--json={file}")
  assert code == 0 and not err
  lines = out.splitlines()
  assert max(map(len, lines)) <= 100
  titles = [line[:14].strip() for line in lines if line[:14].strip()]
  assert titles == [
    *("topology", "batch", "compiled", "fits", "memory", "largest"),
    *("kernels", "relations", "optimizer", "collectives", "ESTIMATE", "note"),
  ]
  assert "16 x 128 = 2,048 tokens, 2 x 128 on a device, 2 times" in out
  assert "of 1 head(s) at a time" in out and "never all 4" in out
  assert "ESTIMATE       none: no published peak and bandwidths of 'cpu'" in out
  assert "optimal" not in out
  content = json.loads(file.read_text())
  assert content["schema"] == "time_jax.bench.aot/1"
  (report,) = content["reports"]
  assert report["topology"] == "cpu:8" and report["fits"] is None
  assert report["memory"]["total"] > 0 and report["estimate"] is None
  assert content["software"]["jax"] == jax.__version__
  assert content["config"]["data"]["seq_len"] == 128


def test_a_sweep(capsys, monkeypatch, replicas):
  def examined(config, target):
    known = config.train.global_batch_size == 16
    return replicas if known else fit.examine(config, target)

  monkeypatch.setattr(aot, "examine", examined)
  code, out, err = run(
    capsys,
    *small_run.flags(relations__implementation="dense"),
    "--topology=cpu:2",
    "--sweep",
    "--batches=16,5",
    "--meshes=2x1x1",
  )
  assert code == 0 and not err
  title, header, fits, refused, advice = out.splitlines()
  assert title.startswith("2 variants for cpu:2")
  assert fits.split()[:5] == ["16", "1", "2", "1", "1"]
  assert len(fits) <= len(header)
  assert "train.global_batch_size=5 must be divisible by the 2" in refused
  assert advice == (
    "No time is estimated for cpu:2, so none is the best: no published peak "
    "and bandwidths of 'cpu' are known here. Take another --topology of TPUs "
    "or GPUs, such as v5e:4x4 or h100:8."
  )


def test_gpus_are_estimated_from_a_cpus_program(capsys, tmp_path):
  file = tmp_path / "aot.json"
  code, out, err = run(
    capsys, *small_run.flags(), "--topology=h100:4", f"--json={file}"
  )
  assert code == 0 and not err
  assert "4 x NVIDIA H100 80GB HBM3, data=4" in out
  assert "by its size, an ESTIMATE: 0% of the 60.00 GB that a program" in out
  assert "gathered parameters, of a CPU's program" in out
  assert "at 450 GB/s, NVLink" in out and "at 989 TFLOP/s bfloat16" in out
  assert "a CPU's program, not of an accelerator's" in out
  (report,) = json.loads(file.read_text())["reports"]
  assert report["forced"] and report["fits"]
  memory, estimate = report["memory"], report["estimate"]
  # State is read and written, the rest read.
  state = memory["parameters"] + memory["optimizer"]
  moved = 2 * state + memory["teacher"] + memory["batch"]
  assert estimate["hbm"] == pytest.approx(moved / 3350e9)
  assert estimate["ici"] > 0


@pytest.mark.parametrize(
  ("capacity", "tried"), [(600, [1, 2]), (130, [1, 4, 8]), (10, [1, 8])]
)
def test_a_sweep_finds_the_accumulation_that_fits(
  capsys, monkeypatch, replicas, capacity, tried
):
  """A program of 1000 bytes in one micro-batch, 500 in two and so on."""
  seen = []

  def examined(config, target):
    ways = config.train.accumulation
    seen.append(ways)
    report = dataclasses.replace(
      made_up(16, 1, 1, 1),
      topology=target.name,
      mesh={"data": 2, "fsdp": 1, "tensor": 1},
      rows_per_device=8 // ways,
      accumulation=ways,
      capacity=capacity,
      memory=replicas.memory,
    )
    memory = dataclasses.replace(replicas.memory, total=1000 // ways)
    return fit.judge_by_size(report, memory)

  monkeypatch.setattr(aot, "examine", examined)
  words = (*small_run.flags(), "--topology=h100:2", "--sweep", "--batches=16")
  code, out, err = run(capsys, *words, "--meshes=2x1x1")
  _, header, line, advice = out.splitlines()
  assert seen == tried
  assert not err and line.split()[:5] == ["16", str(tried[-1]), "2", "1", "1"]
  if capacity > 100:
    assert code == 0 and len(line) == len(header)
    assert f"--config.train.accumulation={tried[-1]} --config.mesh" in advice
  else:
    assert code == 2 and "NO this machine's program takes" in line
    assert advice.startswith("No variant fits, in micro-batches of single")


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--topology=v5e"], "--topology=v5e is no topology; expected GENERATION"),
    (["--topology=cpu:0"], "--topology=cpu:0 is no topology"),
    (["--topology=h100:16"], "--topology=h100:16: expected 1 to 8 GPUs"),
    (["--topology=cpu:99"], "set JAX_NUM_CPU_DEVICES=99."),
    (["--topology=cpu:3"], "the 3 devices of the mesh axes data and fsdp"),
    (["--topology=cpu:2", "--config.mesh.fsdp=3"], "does not fit 2 device(s)"),
    (["--topology=cpu:2", "--config.train.parallel=pmap"], "expected 'jit'."),
    (
      ["--topology=cpu:2", "--sweep", "--meshes=2"],
      "expected DATAxFSDPxTENSOR",
    ),
    (
      ["--topology=cpu:2", "--sweep", "--batches=two"],
      "--batches=two: expected",
    ),
    (["--topology=cpu:2", "--json=/not/there"], "--json=/not/there"),
    (["--topology=cpu:2", "--config.teacher.layer=9"], "layers 1 to 3"),
  ],
)
def test_what_is_refused(capsys, words, message):
  code, out, err = run(capsys, *small_run.flags(), *words)
  (line,) = err.splitlines()
  assert code == 2 and not out
  assert line.startswith("time_jax: error: ") and message in line


def test_without_libtpu(capsys, monkeypatch):
  monkeypatch.setattr(topology, "_has_libtpu", lambda: False)
  code, out, err = run(capsys, *small_run.flags(), "--topology=v5e:4x4")
  assert code == 2 and not out
  assert err == (
    "time_jax: error: --topology=v5e:4x4 needs libtpu, which compiles for TPUs "
    "on any Linux machine and is not installed: pip install -e '.[aot]' in the "
    "repository.\n"
  )


def test_usual_meshes_use_all_devices():
  assert aot.usual_meshes(16) == [(16, 1, 1), (4, 4, 1), (1, 16, 1), (8, 1, 2)]
  assert aot.usual_meshes(2) == [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
  assert aot.usual_meshes(1) == [(1, 1, 1)]
  for devices in range(1, 40):
    found = aot.usual_meshes(devices)
    assert {math.prod(mesh) for mesh in found} == {devices}
    assert len(set(found)) == len(found)


def made_up(batch, compute, hbm, ici, fits=True):
  estimate = Estimate(compute, hbm, ici, 1e12, 1e9, 1e9, "nowhere", "")
  return Report(
    topology="v5e:4x4",
    device_kind="TPU v5 lite",
    devices=16,
    mesh={"data": 4, "fsdp": batch, "tensor": 1},
    global_batch_size=batch,
    rows_per_device=1,
    tokens=batch * 512,
    accumulation=2,
    forced=False,
    fits=fits,
    reason="",
    needed=0,
    capacity=2**34,
    compile_seconds=1.0,
    estimate=estimate,
  )


def test_the_recommended_variant_has_the_fastest_token():
  slow, fast = made_up(256, 0.1, 0.05, 0.05), made_up(512, 0.2, 0.05, 0.05)
  assert (slow.estimate.best, slow.estimate.worst) == (0.1, pytest.approx(0.2))
  too_large = made_up(1024, 0.1, 0, 0, fits=False)
  text = aot.recommendation([slow, fast, too_large])
  assert text == (
    "Least estimated time for a token: --config.train.global_batch_size=512 "
    "--config.train.accumulation=2 --config.mesh.data=4 "
    "--config.mesh.fsdp=512 --config.mesh.tensor=1"
  )
  assert "No variant fits" in aot.recommendation([too_large])


def test_what_does_not_fit_says_so():
  report = dataclasses.replace(made_up(8, 1, 1, 1, False), reason="FULL: 20G")
  text = "\n".join(rendering.lines(report, small_run.make_config()))
  assert "fits           NO: FULL: 20G" in text
  assert "train.accumulation" in text and "ESTIMATE" not in text


def test_exchanges_that_are_not_understood_are_not_known():
  report = dataclasses.replace(
    made_up(8, 1, 1, 1),
    memory=Memory(*[1] * 9),
    unreached=3,
    estimate=None,
    no_estimate="what the devices tell each other is not known",
  )
  text = "\n".join(rendering.lines(report, small_run.make_config()))
  assert "collectives    not known: nothing is known to run 3 of them" in text
  assert "ESTIMATE       none: what the devices tell each other is" in text


@pytest.mark.parametrize(
  ("message", "memory"),
  [
    ("temporaries (8.00T) exceeds available HBM (15.75G).", (2**43, 15.75)),
    ("Used 40.5G of 31.25G hbm. Exceeded", (40.5 * 2**30, 31.25)),
  ],
)
def test_the_memory_in_an_error(message, memory):
  needed, capacity = memory
  assert topology.read_memory(message) == (needed, capacity * 2**30)
  assert topology.read_memory("INTERNAL: out of luck") is None


@needs_libtpu
def test_a_step_for_a_tpu():
  """What needs the TPU's compiler: capacity, estimate, its own program."""
  # Not the precision that the other tests take: kernels refuse it.
  with jax.default_matmul_precision("default"):
    report = examine("v5e:2x2", mesh__fsdp=4, train__dtype="bfloat16")
    refused = examine("v5e:2x2", mesh__fsdp=4, train__global_batch_size=2**20)
  assert report.device_kind == "TPU v5 lite" and report.fits
  assert 15 * 2**30 < report.capacity < 16 * 2**30
  assert 0 < report.memory.total < report.capacity
  assert report.heads_at_once < 4 and report.unknown_loops == 0
  kinds = {one.kind for one in report.collectives}
  assert "all-gather" in kinds and {"all-reduce", "reduce-scatter"} & kinds
  estimate = report.estimate
  assert estimate.peak == 197e12 and estimate.hbm_bandwidth == 819e9
  assert 0 < estimate.best < estimate.worst
  text = "\n".join(rendering.lines(report, small_run.make_config()))
  assert "ESTIMATE       a roofline, not a measurement" in text
  assert "https://cloud.google.com/tpu/docs/v5e" in text
  assert refused.fits is False and "HBM" in refused.reason


@needs_libtpu
def test_collectives_of_a_tpu_that_runs_them_beside_the_program():
  """The same step exchanges the same, however the compiler starts it."""
  with jax.default_matmul_precision("default"):
    plain, beside = (
      examine(name, train__dtype="bfloat16", student__hidden_size=64)
      for name in ("v5e:2x4", "tpu7x:2x2x1")
    )
  assert plain.devices == beside.devices == 8
  payloads = [
    sum(one.payload for one in report.collectives) for report in (plain, beside)
  ]
  assert payloads[1] == pytest.approx(payloads[0], rel=0.05)
  assert plain.estimate and beside.estimate is None
  assert "'TPU7x' are known here" in beside.no_estimate


@needs_libtpu
def test_topologies_of_tpus():
  sizes = {"v4:2x2x1": 4, "v5e:1x1": 1, "v5p:4x4x4": 64, "v6e:16x16": 256}
  for name, count in sizes.items():
    found = topology.find(name)
    assert len(found.devices) == count and found.memory > 2**33
    assert found.kind in topology.LINKS
  # Both directions of a link, where the slice's rings are closed.
  assert topology.find("v6e:16x16").axis_bandwidth == 180e9
  assert topology.find("v5e:4x4").axis_bandwidth == 45e9
  with pytest.raises(UserError, match=r"accepts, .*v5e: 1x1 2x2 2x4 4x4"):
    topology.find("v5e:3x5")
