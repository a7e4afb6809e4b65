"""The step against five steps of the reference's training run."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from time_jax.core.arrays import make_batch
from time_jax.hf import load
from time_jax.hf.save import to_tensors
from time_jax.models import bert
from time_jax.step import optimizer
from time_jax.step.objective import Objective
from time_jax.step.state import StepSettings, TrainState
from time_jax.step.train_step import Student, train_step

RELATIONS = {"qq": 1.0, "kk": 1.0, "vv": 1.0}


@pytest.fixture(scope="module")
def reference(golden, mesh):
  """The reference's settings, teacher and student, and first parameters."""
  folder = golden / "end_to_end"
  settings = json.loads((folder / "settings.json").read_text())
  layer = settings["teacher_layer"]
  how = dict(dtype=jnp.dtype("float32"), mesh=mesh)
  teacher = load.load_teacher(str(folder / "teacher"), (layer,), **how)
  student, params = load.load_encoder(folder / "student_init", **how)
  return settings, teacher, student, params


@pytest.mark.parametrize(
  "implementation",
  [pytest.param("dense", marks=pytest.mark.slow), "one_pass"],
)
def test_five_steps_of_the_reference(golden, reference, implementation):
  folder = golden / "end_to_end"
  settings, teacher, student, params = reference
  objective = Objective(
    teacher,
    student,
    settings["relation_heads"],
    RELATIONS,
    implementation,
    settings["teacher_layer"],
  )
  tx = optimizer.make_optimizer(
    bert.FAMILY.feeds_projections,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    weight_decay=0.01,
    clip_norm=1.0,
  )
  schedule = functools.partial(
    optimizer.warmup_linear_decay,
    peak_lr=settings["learning_rate"],
    warmup_steps=2,
    num_steps=10,
  )
  students = {"student": Student(objective, StepSettings(tx, schedule))}
  step = jax.jit(functools.partial(train_step, students=students))
  zero = jnp.zeros((), jnp.int32)
  state = TrainState(zero, params, tx.init(params), zero, zero)
  states = {"student": state}
  expected = np.load(folder / "trajectory.npz")
  batches = np.load(folder / "batches.npz")
  for i in range(settings["steps"]):
    batch = make_batch(batches["input_ids"][i], batches["attention_mask"][i])
    states, metrics = step(states, teacher.params, batch)
    for name, key in (
      ("train/loss", "loss_f64"),
      ("train/grad_norm", "grad_norm_f64"),
      ("train/learning_rate", "learning_rate"),
    ):
      np.testing.assert_allclose(
        metrics["student"][name],
        expected[key][i],
        rtol=1e-5,
        err_msg=f"{name}, step {i}",
      )
  found = to_tensors(states["student"].params, bert.NAMES, 2)
  final = safetensors.numpy.load_file(folder / "student_final_f64.safetensors")
  initial = safetensors.numpy.load_file(
    folder / "student_init" / "model.safetensors"
  )
  untouched = settings["parameters_without_gradient_left_untouched"]
  assert len(untouched) == 12
  assert set(found) >= set(settings["decayed_parameters"])
  for name, values in found.items():
    np.testing.assert_allclose(
      values, final[name], atol=5e-6, rtol=0, err_msg=name
    )
    if name in untouched:
      np.testing.assert_array_equal(values, initial[name], err_msg=name)
