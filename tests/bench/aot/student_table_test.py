"""A run of several students beside runs of each alone."""

import dataclasses
import json

import small_run

from time_jax.bench.aot import aot, fit, student_table
from time_jax.bench.aot.variant_report import Estimate, Memory, Report
from time_jax.cli import main


def made_up(compute, hbm, ici):
  return Report(
    topology="v5e:4x4",
    device_kind="TPU v5 lite",
    devices=16,
    mesh={"data": 16, "fsdp": 1, "tensor": 1},
    global_batch_size=16,
    rows_per_device=1,
    tokens=16 * 512,
    accumulation=1,
    forced=False,
    fits=True,
    reason="",
    needed=0,
    capacity=2**34,
    compile_seconds=1.0,
    estimate=Estimate(compute, hbm, ici, 1e12, 1e9, 1e9, "nowhere", ""),
  )


def test_the_table_of_students():
  small, large = made_up(0.1, 0.05, 0.05), made_up(0.3, 0.1, 0.1)
  memory = Memory(*[10**6] * 8, 8 * 10**6)
  small = dataclasses.replace(small, flops=10**12, memory=memory)
  large = dataclasses.replace(large, flops=3 * 10**12)
  both = dataclasses.replace(made_up(0.3, 0.09, 0.09), flops=35 * 10**11)
  table = student_table.student_table(both, {"xs": small, "m": large})
  lines = table.splitlines()[1:]
  assert [line.split() for line in lines[:4]] == [
    ["together", "yes", "3.50", "300.0", "-", "480.0"],
    [
      "xs",
      "yes",
      *["2", "MB", "1", "MB", "8", "MB", "1.00", "100.0", "-", "200.0"],
    ],
    ["m", "yes", "3.00", "300.0", "-", "500.0"],
    ["one", "by", "one", "4.00", "400.0", "-", "700.0"],
  ]
  assert lines[5].endswith(": 0.75 if all overlaps, 0.69 if nothing does")
  assert max(map(len, table.splitlines())) <= 100
  full = dataclasses.replace(large, fits=False, estimate=None)
  told = student_table.student_table(both, {"xs": small, "m": full})
  assert "ESTIMATE:" not in told and "m" in told
  (line,) = (x for x in told.splitlines() if x.startswith("m "))
  assert line.split() == ["m", "NO", "3.00"]


def test_several_students(capsys, monkeypatch, tmp_path):
  """The run has what all need; a student alone is what it is without others."""
  examined = []

  def examine(config, target):
    examined.append(config)
    return fit.examine(config, target)

  monkeypatch.setattr(aot, "examine", examine)
  file = tmp_path / "aot.json"
  words = [
    *small_run.flags(train__accumulation=2),
    "--config.students.wide.student.hidden_size=32",
    "--config.students.wide.relations.num_heads=8",
    "--config.students.xs={}",
  ]
  words += ["--topology=h100:1", f"--json={file}"]
  assert main.main(["bench", "aot", *words]) == 0
  out = capsys.readouterr().out
  content = json.loads(file.read_text())
  (together,), alone = content["reports"], content["alone"]
  assert [*alone] == ["wide", "xs"]
  assert [own["relation_heads"] for own in alone.values()] == [[8], [4]]
  assert together["relation_heads"] == [4, 8]
  assert len(examined) == 3
  config = small_run.make_config(train__accumulation=2)
  assert examined[-1].to_dict() == config.to_dict()
  memory = together["memory"]
  for part in ("parameters", "optimizer"):
    assert memory[part] == sum(own["memory"][part] for own in alone.values())
  # They share it.
  assert memory["teacher"] == alone["xs"]["memory"]["teacher"]
  assert together["optimizer_total"] == sum(
    own["optimizer_total"] for own in alone.values()
  )
  apart = sum(own["flops"] for own in alone.values())
  assert max(own["flops"] for own in alone.values()) < together["flops"] < apart
  table = out[out.index("weights, optimizer") :].splitlines()
  assert [line.split()[0] for line in table[1:5]] == [
    *("together", "wide", "xs", "one")
  ]
  assert table[-1].startswith("together / one by one, an ESTIMATE: ")
