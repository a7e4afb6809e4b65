"""The PyTorch baseline is honest, and the comparison says what it measured."""

import collections
import functools
import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from here import Here

from time_jax.bench.peers import (
  compare,
  timed_steps,
  torch_baseline,
  torch_device,
)
from time_jax.cli import main

SELF_RELATIONS = [
  "base_h32_a4_ragged_self",
  "base_h32_a16_ragged_self",
  "base_h48_a8_leftpad_holes_self",
  "base_h48_a8_empty_row_self",
  "large_h48_a8_ragged_self",
]


@pytest.mark.parametrize("case", SELF_RELATIONS)
def test_the_loss_is_the_references(golden, case):
  expected = np.load(golden / "relation_loss" / f"{case}.npz")

  def projections(side):
    names = {"query": "q", "key": "k", "value": "v"}
    return {
      name: torch.tensor(expected[f"{side}_{letter}"], requires_grad=True)
      for name, letter in names.items()
    }

  student = projections("student")
  loss = torch_baseline.relation_loss(
    projections("teacher"),
    student,
    torch.tensor(expected["mask"]),
    int(expected["relation_heads"]),
  )
  loss.backward()
  np.testing.assert_allclose(loss.item(), expected["loss_fast_f64"], rtol=2e-5)
  real = expected["mask"] > 0
  for name, found in student.items():
    np.testing.assert_allclose(
      found.grad.numpy()[real],
      expected[f"grad_{name[0]}_fast_f64"][real],
      atol=1e-6,
      err_msg=name,
    )


def reference_run(golden):
  """The reference's own models, settings, batches and results."""
  folder = golden / "end_to_end"
  settings = json.loads((folder / "settings.json").read_text())
  b1, b2 = settings["betas"]
  optimizer = dict(
    peak_lr=settings["learning_rate"],
    warmup_steps=settings["warmup_steps"],
    num_steps=settings["total_steps"],
    b1=b1,
    b2=b2,
    eps=settings["eps"],
    weight_decay=settings["weight_decay"],
    clip_norm=settings["max_grad_norm"],
  )
  baseline = torch_baseline.Baseline(
    transformers.XLMRobertaModel.from_pretrained(folder / "teacher"),
    (
      student := transformers.BertModel.from_pretrained(folder / "student_init")
    ),
    layer=settings["teacher_layer"],
    num_heads=settings["relation_heads"],
    optimizer=optimizer,
  )
  stored = np.load(folder / "batches.npz")
  batches = [
    (torch_device.to_torch(tokens), torch_device.to_torch(mask))
    for tokens, mask in zip(
      stored["input_ids"], stored["attention_mask"], strict=True
    )
  ]
  return baseline, student, batches, folder


WAYS = [
  {},
  {"cut": True},
  {"parts": 2},
  # All of torch.compile but its code generator.
  pytest.param({"compiled": "aot_eager"}, marks=pytest.mark.slow),
  pytest.param({"compiled": "inductor"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_five_steps_are_the_references(golden, monkeypatch, way):
  built = functools.partial(torch.compile, backend=way.get("compiled"))
  monkeypatch.setattr(torch, "compile", built)
  baseline, student, batches, folder = reference_run(golden)
  expected = np.load(folder / "trajectory.npz")
  for i, (tokens, mask) in enumerate(batches):
    loss, norm = baseline.step(tokens, mask, **way)
    np.testing.assert_allclose(loss, expected["loss_f64"][i], rtol=1e-5)
    np.testing.assert_allclose(norm, expected["grad_norm_f64"][i], rtol=1e-5)
  final = safetensors.torch.load_file(folder / "student_final_f64.safetensors")
  for name, values in student.state_dict().items():
    np.testing.assert_allclose(values, final[name], atol=5e-6, err_msg=name)


def test_the_cut_teacher_does_less(golden):
  baseline, _, batches, _ = reference_run(golden)
  ran = collections.Counter()
  for number, block in enumerate(baseline._blocks, 1):
    block.register_forward_hook(lambda *_, n=number: ran.update([n]))
  baseline.step(*batches[0])
  assert set(ran) == {1, 2, 3, 4}
  ran.clear()
  baseline.step(*batches[0], cut=True)
  assert set(ran) == {1, 2, 3}


def tiny_config():
  """Both sides at sizes that a test can wait for."""
  config = compare.make_config("xs", 8, 16, "float32")
  config.teacher.layer = 2
  config.teacher.architecture.update(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
  )
  config.student.update(
    num_layers=2, hidden_size=16, intermediate_size=32, num_heads=2
  )
  config.relations.num_heads = 4
  return config


def test_both_take_turns(monkeypatch):
  monkeypatch.setattr(compare, "ChildProcess", Here)
  ways = compare.torch_variants(compiled=False, cut=True)
  reports = list(compare.compare(tiny_config(), ways, repeats=3, steps=2))
  result = reports[-1]
  seen = [len(r["implementations"]["PyTorch"]["rounds_s"]) for r in reports]
  assert seen == [1, 2, 3, 3]  # Nothing is lost of one that is cut off.
  found = result["implementations"]
  assert list(found) == ["time_jax", "PyTorch", "PyTorch, teacher cut"]
  ours = found["time_jax"]
  for row in found.values():
    assert len(row["rounds_s"]) == row["step_s"]["n"] == 3
    middle = sorted(row["rounds_s"])[1]
    assert row["tokens_s"] == pytest.approx(8 * 16 / middle)
    assert row["ours_over_theirs"] == pytest.approx(
      ours["tokens_s"] / row["tokens_s"]
    )
    low, high = row["ours_over_theirs_range"]
    assert 0 < low <= high
    assert row["cores_s"] > 0
    work = sum(result["flops"].values()) / middle / 1e12
    assert row["model_tflops_s"] == pytest.approx(work)
    assert row["mfu"] is None and row["parts"] == 1
    assert row["peak_bytes"] > 10e6
  parts = result["parts_s"]
  assert sum(parts.values()) == pytest.approx(ours["step_s"]["p50"])
  assert min(parts[name] for name in parts if name != "rest") > 0
  assert result["software"]["torch"] == torch.__version__
  assert result["hardware"]["n_devices"] == 1  # PyTorch's step has one, too.
  # Two blocks of the teacher, one and a half of the student.
  tokens = 8 * 16
  assert result["flops"]["teacher"] == tokens * 2 * (
    4 * 32**2 + 2 * 32 * 64 + 2 * 16 * 32 + 3 * 32**2
  )
  text = compare.as_text("tiny", json.loads(json.dumps(result)))
  title, machine, header, *rows = text.splitlines()
  assert "8 x 16 tokens, float32; teacher 3 x 32, layer 2" in title
  assert f"torch {torch.__version__}" in machine
  assert "median of 3 alternating rounds" in machine
  assert header.split()[:3] == ["implementation", "s/step", "best"]
  assert rows[0].split()[-6:-3] == [
    "-",
    f"{ours['peak_bytes'] / 1e9:.2f}",
    "1.00x",
  ]
  assert rows[2].startswith("PyTorch, teacher cut ")
  assert {"token table's gradient", "gradient norm and optimizer"} < set(parts)


@pytest.mark.parametrize(
  ("compiled", "cut", "names"),
  [
    (False, False, ["PyTorch"]),
    (True, False, ["PyTorch", "PyTorch, torch.compile"]),
    (False, True, ["PyTorch", "PyTorch, teacher cut"]),
  ],
)
def test_variants_are_those_that_are_asked_for(compiled, cut, names):
  assert list(compare.torch_variants(compiled, cut)) == names
  both = compare.torch_variants(compiled=True, cut=True)
  assert len(both) == 4
  assert both["PyTorch, both"] == {"compiled": True, "cut": True}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_arrays_keep_their_values_in_pytorch(dtype):
  array = np.asarray(jnp.arange(6).astype(dtype).reshape(2, 3))
  tensor = torch_device.to_torch(array)
  # PyTorch looks tokens up by int64.
  assert tensor.dtype == getattr(torch, dtype.replace("int32", "int64"))
  np.testing.assert_array_equal(
    torch_device.to_numpy(tensor), array.astype(np.float32)
  )


def test_a_batch_is_worked_in_as_few_parts_as_memory_asks_for(monkeypatch):
  step = timed_steps.TorchStep(tiny_config().to_json(), {"PyTorch": {}})
  whole, steps = torch_baseline.relation_loss, []

  def loss(teacher, student, mask, num_heads):
    steps.append(len(mask))
    if len(mask) > 2:
      raise torch.OutOfMemoryError("none left")
    return whole(teacher, student, mask, num_heads)

  monkeypatch.setattr(torch_baseline, "relation_loss", loss)
  assert step.warm_up("PyTorch")["parts"] == 4
  assert steps == [8, 4, *4 * [2], *4 * [2]]
  step.run("PyTorch", 1)
  assert steps[-4:] == 4 * [2]


def test_on_a_gpu_it_is_said_what_of():
  rows = {
    name: {
      "step_s": {"p50": 0.5, "min": 0.4, "n": 5},
      "cores_s": 0.1,
      "tokens_s": 1000.0,
      "model_tflops_s": 100.0,
      "mfu": 0.25,
      "parts": parts,
      "peak_bytes": 2e9,
      "ours_over_theirs": 1.0,
      "ours_over_theirs_range": [1, 1],
    }
    for name, parts in (("time_jax", 1), ("PyTorch", 8))
  }
  result = {
    "date": "2026-11-24",
    "hardware": {
      "n_devices": 1,
      "kind": "GPU",
      "host_cores": 8,
      "peak_tflops_dense": 400,
      "peak_source": "a page",
    },
    "software": {
      "jax": "1",
      "torch": "2",
      "transformers": "3",
      "torch_float32_products": "TF32",
    },
    "shape": {
      "global_batch": 256,
      "seq": 512,
      "dtype": "float32",
      "teacher": "24 x 1024",
      "layer": 19,
    },
    "implementations": rows,
    "not_measured": {"PyTorch, torch.compile": "no compiler"},
    "parts_s": {"rest": 0.5},
  }
  text = compare.as_text("m", result)
  assert "25.0%" in text and "MFU is of 400 TFLOP/s, dense (a page)" in text
  assert "PyTorch: a batch in 8 parts; it has no memory" in text
  assert "multiplied in TF32 on both sides" in text
  assert "not measured: PyTorch, torch.compile: no compiler" in text


def test_the_recipe_is_the_papers():
  config = compare.make_config("s", 4, 512, "float32")
  config = json.loads(config.to_json())
  assert config["student"]["hidden_size"] == 384
  assert config["student"]["dropout"] == 0.1
  assert config["teacher"]["architecture"]["num_hidden_layers"] == 24
  assert (config["teacher"]["layer"], config["relations"]["num_heads"]) == (
    19,
    64,
  )
  assert config["teacher"]["dtype"] == config["train"]["dtype"] == "float32"


def error_of(capsys, *flags):
  assert main.main(["bench", "compare", *flags]) == 2
  output = capsys.readouterr()
  assert not output.out
  return output.err


def test_an_unknown_size(capsys):
  assert error_of(capsys, "--size=s,xxl") == (
    "time_jax: error: --size=xxl is unknown; known: m, s, xs.\n"
  )


def test_without_pytorch(capsys, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *more: None if name == "torch" else find(name, *more),
  )
  assert error_of(capsys).startswith(
    "time_jax: error: bench compare needs PyTorch; pip install torch"
  )


def test_a_report_that_cannot_be_written_is_told_first(capsys, tmp_path):
  wrong = tmp_path / "missing" / "report.json"
  assert f"--json={wrong} cannot be written" in error_of(
    capsys, f"--json={wrong}"
  )
