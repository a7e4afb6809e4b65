"""Builds the objects of a run from its config.

Below `run` no function takes a ConfigDict.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.core.errors import UserError
from time_jax.hf import files, flax_teacher, lineage, load
from time_jax.models import bert
from time_jax.models.family import Family, Teacher
from time_jax.parallel import sharding
from time_jax.relations.loss import check_heads, check_platform, check_relations
from time_jax.step import optimizer, partitioning, train_step
from time_jax.step.objective import Objective
from time_jax.step.state import StepSettings, abstract_state

RANDOM = "random"


def teacher_config(config: ConfigDict) -> Any:
  """Returns the sizes of the teacher without reading its weights.

  It also checks that teacher, student, text and relations fit together, so that
  a mistake shows before hours of work.

  Args:
    config: config of the run.

  Raises:
    UserError: the teacher is missing or does not fit the rest.
  """
  t = config.teacher
  if not t.path:
    raise UserError(
      "teacher.path is empty; expected a folder or a hub id OWNER/NAME, such "
      "as --config.teacher.path=FacebookAI/xlm-roberta-base."
    )
  if t.path == RANDOM:
    hf_config = t.architecture.to_dict()
    family, teacher = load.parse_config(hf_config, "teacher.architecture")
  else:
    folder = files.resolve(t.path, t.allow_pickle)
    family, teacher = load.read_config(folder, _overrides(config))
    load.check_teacher(folder, (t.layer,), allow_pickle=t.allow_pickle)
  load.check_layer(t.layer, teacher.num_layers)
  _check_capture(config, family, teacher)
  check_relations(
    relation_weights(config), teacher.widths, config.relations.implementation
  )
  check_heads(
    config.relations.num_heads,
    {f"teacher's {name}": width for name, width in teacher.widths.items()}
    | {"student.hidden_size": config.student.hidden_size},
  )
  seq_len, longest = config.data.seq_len, teacher.max_positions
  if longest and seq_len > longest:
    raise UserError(
      f"data.seq_len={seq_len} is longer than the teacher's position table, "
      f"{longest}."
    )
  student_config(config, teacher.vocab_size)
  return teacher


def _overrides(config: ConfigDict) -> dict[str, str]:
  layout = config.teacher.relative_layout
  return {"relative_layout": layout} if layout else {}


def _check_capture(config: ConfigDict, family: Family, teacher: Any) -> None:
  """Raises UserError where the teacher lacks what is to be distilled."""
  if config.teacher.relative_layout and not hasattr(teacher, "relative_layout"):
    raise UserError(
      f"teacher.relative_layout={config.teacher.relative_layout!r} is for "
      "LTG-BERT alone; leave it empty."
    )
  if config.teacher.capture != "post_rope":
    return
  if not family.rotary or config.teacher.loader != "own":
    raise UserError(
      "teacher.capture='post_rope' needs a teacher with rotary positions "
      "(ModernBERT, EuroBERT); expected 'projections'."
    )
  # A part of a rotated head is no function of relative positions any more.
  heads, whole = config.relations.num_heads, teacher.head_dim
  wrong = [w for w in teacher.widths.values() if w // heads % whole]
  if wrong:
    raise UserError(
      f"relations.num_heads={heads} would cut rotated heads: "
      f"{wrong[0]} / {heads} is no multiple of their width {whole}; with "
      "teacher.capture='post_rope' expected a divisor of "
      f"{min(teacher.widths.values()) // whole}."
    )


def make_teacher(config: ConfigDict, mesh: Mesh) -> Teacher:
  """Returns the teacher with its weights, up to its distilled layer."""
  t = config.teacher
  dtype = jnp.dtype(t.dtype)
  if t.path == RANDOM:
    return load.random_teacher(
      t.architecture.to_dict(),
      (t.layer,),
      seed=config.seed,
      dtype=dtype,
      mesh=mesh,
      capture=t.capture,
    )
  if t.loader == "flax":
    return flax_teacher.load_flax_teacher(
      t.path, (t.layer,), dtype=dtype, mesh=mesh, allow_pickle=t.allow_pickle
    )
  return load.load_teacher(
    t.path,
    (t.layer,),
    dtype=dtype,
    mesh=mesh,
    capture=t.capture,
    overrides=_overrides(config),
    allow_pickle=t.allow_pickle,
  )


def teacher_origin(config: ConfigDict) -> dict[str, str]:
  """Returns where the teacher came from; empty for random weights."""
  t = config.teacher
  return {} if t.path == RANDOM else lineage.describe(t.path, t.allow_pickle)


def abstract_teacher(config: ConfigDict, mesh: Mesh) -> Teacher:
  """Returns a teacher whose parameters are only shapes and shardings."""
  t = config.teacher
  if t.loader != "own":
    raise UserError(
      f"teacher.loader={t.loader!r} cannot be compiled without its weights; "
      "expected 'own'."
    )
  hf_config = t.architecture.to_dict()
  if t.path != RANDOM:
    folder = files.resolve(t.path, t.allow_pickle)
    hf_config = files.model_config(folder) | _overrides(config)
  return load.abstract_teacher(
    hf_config,
    (t.layer,),
    dtype=jnp.dtype(t.dtype),
    mesh=mesh,
    capture=t.capture,
  )


def student_config(config: ConfigDict, vocab_size: int) -> bert.BertConfig:
  """Returns the sizes of the student, a BERT over the teacher's vocabulary."""
  sizes = config.student.to_dict()
  del sizes["init_from"]
  return bert.BertConfig(vocab_size=vocab_size, **sizes)


def make_student(config: ConfigDict, vocab_size: int) -> bert.Encoder:
  """Returns the student's encoder, whose last block is the distilled one."""
  shape = student_config(config, vocab_size)
  return bert.Encoder(shape, shape.num_layers, jnp.dtype(config.train.dtype))


def relation_weights(config: ConfigDict) -> dict[str, float]:
  """Returns the relations of the loss with their weights; none is 0."""
  return {k: w for k, w in config.relations.weights.items() if w}


def make_objective(config: ConfigDict, teacher: Teacher) -> Objective:
  """Returns the relation loss between a teacher and a fresh student."""
  return Objective(
    teacher=teacher,
    student=make_student(config, teacher.vocab_size),
    num_heads=config.relations.num_heads,
    weights=relation_weights(config),
    implementation=config.relations.implementation,
  )


def make_mesh(
  config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns the mesh, checked against batch sizes and relation kernel.

  Args:
    config: config of the run.
    devices: devices of the mesh; None: all devices of all processes.
  """
  mesh = sharding.make_mesh(**config.mesh.to_dict(), devices=devices)
  platform = mesh.devices.flat[0].platform
  check_platform(config.relations.implementation, platform)
  ways = sharding.batch_ways(mesh)
  sizes = [("train", config.train.global_batch_size, config.train.accumulation)]
  if config.data.validation:
    sizes.append(("eval", config.eval.global_batch_size, 1))
  for name, rows, parts in sizes:
    if rows % (ways * parts):
      raise UserError(
        f"{name}.global_batch_size={rows} must be divisible by the "
        f"{ways} devices of the mesh axes data and fsdp"
        + (f" times train.accumulation={parts}" if parts > 1 else "")
        + f"; the next one up is {-(-rows // (ways * parts)) * ways * parts}."
      )
  if config.train.parallel == "pmap":
    partitioning.check_pmap(mesh)
  return mesh


def step_settings(config: ConfigDict) -> StepSettings:
  """Returns optimizer, schedule and guards of the training step."""
  c = config.train
  return StepSettings(
    # AdamW over the parameters that the loss reaches.
    tx=optimizer.make_optimizer(
      bert.FAMILY.feeds_projections,
      b1=c.b1,
      b2=c.b2,
      eps=c.eps,
      weight_decay=c.weight_decay,
      clip_norm=c.clip_norm,
    ),
    learning_rate=functools.partial(
      optimizer.warmup_linear_decay,
      peak_lr=c.peak_lr,
      warmup_steps=c.warmup_steps,
      num_steps=c.num_steps,
    ),
    seed=config.seed,
    accumulation=c.accumulation,
    spike=c.spike,
    ema=c.ema or None,
  )


def make_parallel(
  config: ConfigDict, objective: Objective, mesh: Mesh
) -> partitioning.Parallel:
  """Returns the step, with its constants bound and spread over the devices."""
  settings = step_settings(config)
  step = functools.partial(
    train_step.train_step, objective=objective, settings=settings
  )
  if config.train.parallel == "pmap":
    return partitioning.with_pmap(step, mesh)
  abstract = abstract_state(objective.init, settings, mesh)
  size = config.train.global_batch_size
  return partitioning.with_jit(step, abstract, mesh, size)
