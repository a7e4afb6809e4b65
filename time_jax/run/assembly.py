"""Builds the objects of a run from its config.

Below `run` no function takes a ConfigDict.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.config import hidden
from time_jax.core import nonfinite
from time_jax.core.arrays import PROJECTIONS
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path, local_path
from time_jax.hf import files, flax_teacher, lineage, load
from time_jax.models import bert
from time_jax.models.family import Family, Teacher
from time_jax.parallel import sharding
from time_jax.relations.loss import check_heads, check_platform, check_relations
from time_jax.run import hidden_states, students
from time_jax.starts import fitting
from time_jax.step import evaluate, optimizer, partitioning, train_step
from time_jax.step.objective import Objective, shared
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
    folder = None
  else:
    folder = files.resolve(t.path, t.allow_pickle)
    family, teacher = load.read_config(folder, _overrides(config))
  load.check_layer(t.layer, teacher.num_layers)
  hidden_states.check_term(config, teacher)
  if folder is not None:
    load.check_teacher(
      folder,
      (t.layer,),
      allow_pickle=t.allow_pickle,
      states=[layer for _, layer in hidden.pairs(config)],
    )
  _check_capture(config, family, teacher)
  local_path(t.cache)  # To be refused before work is done.
  # Where hidden states alone are learnt, relations are still evaluated.
  weights = relation_weights(config)
  if config.hidden.weight:
    weights = weights or evaluate.PAPER
  check_relations(weights, teacher.widths, config.relations.implementation)
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
  shape = student_config(config, teacher.vocab_size)
  # Commands that only time or compile a step read no first weights.
  fitting.check_layers_of_teacher(
    config.student.init_from, t.layer, teacher, shape
  )
  return teacher


def check_students(configs: Mapping[str, ConfigDict]) -> Any:
  """Checks each student of a run as `teacher_config` does.

  Args:
    configs: config of each student, by name.

  Returns:
    The sizes of the teacher.

  Raises:
    UserError: the teacher is missing or does not fit a student.
  """
  teacher: Any = None
  for name, config in configs.items():
    with students.naming(name):
      teacher = teacher_config(config)
  return teacher  # That of all.


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


def make_teacher(
  config: ConfigDict,
  layers: Collection[int],
  mesh: Mesh,
  states: Collection[int] = (),
) -> Teacher:
  """Returns the teacher with its weights.

  Args:
    config: config of the run.
    layers: the layers whose projections are distilled, 1-based; what lies above
      all that is distilled is not loaded.
    mesh: devices of the run.
    states: the layers whose hidden states are distilled, 1-based.
  """
  t = config.teacher
  dtype = jnp.dtype(t.dtype)
  if t.path == RANDOM:
    return load.random_teacher(
      t.architecture.to_dict(),
      layers,
      seed=config.seed,
      dtype=dtype,
      mesh=mesh,
      capture=t.capture,
      states=states,
    )
  if t.loader == "flax":
    return flax_teacher.load_flax_teacher(
      t.path, layers, dtype=dtype, mesh=mesh, allow_pickle=t.allow_pickle
    )
  return load.load_teacher(
    t.path,
    layers,
    dtype=dtype,
    mesh=mesh,
    capture=t.capture,
    overrides=_overrides(config),
    allow_pickle=t.allow_pickle,
    states=states,
  )


def teacher_origin(config: ConfigDict) -> dict[str, str]:
  """Returns where the teacher came from; empty for random weights."""
  t = config.teacher
  return {} if t.path == RANDOM else lineage.describe(t.path, t.allow_pickle)


def abstract_teacher(
  config: ConfigDict,
  layers: Collection[int],
  mesh: Mesh,
  states: Collection[int] = (),
) -> Teacher:
  """Returns a teacher whose parameters are only shapes and shardings.

  Args:
    config: config of the run.
    layers: as for `make_teacher`.
    mesh: devices, which need not exist on this machine.
    states: as for `make_teacher`.
  """
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
    layers,
    dtype=jnp.dtype(t.dtype),
    mesh=mesh,
    capture=t.capture,
    states=states,
  )


def student_config(config: ConfigDict, vocab_size: int) -> bert.BertConfig:
  """Returns the sizes of the student, a BERT over the teacher's vocabulary."""
  sizes = config.student.to_dict()
  del sizes["init_from"], sizes["narrowing"], sizes["seed"]
  return bert.BertConfig(vocab_size=vocab_size, **sizes)


def make_student(config: ConfigDict, vocab_size: int) -> bert.Encoder:
  """Returns the student's encoder, whose last block is the distilled one."""
  shape = student_config(config, vocab_size)
  return bert.Encoder(shape, shape.num_layers, jnp.dtype(config.train.dtype))


def relation_weights(config: ConfigDict) -> dict[str, float]:
  """Returns the relations of the loss with their weights; none is 0."""
  return {k: w for k, w in config.relations.weights.items() if w}


def make_objectives(
  configs: Mapping[str, ConfigDict],
  mesh: Mesh,
  workdirs: Mapping[str, Path] | None = None,
) -> dict[str, Objective]:
  """Returns the losses of students of a teacher.

  Args:
    configs: config of each student of the run, by name, whether it is still
      trained or not: the teacher's program depends on all of them.
    mesh: devices of the run.
    workdirs: folder of each student; None: there is none, as the losses are
      only timed, see `hidden_states.make_term`.
  """
  return _objectives(configs, make_teacher, mesh, workdirs or {})


def abstract_objectives(
  configs: Mapping[str, ConfigDict], mesh: Mesh
) -> dict[str, Objective]:
  """Does the same with an `abstract_teacher`."""
  return _objectives(configs, abstract_teacher, mesh, {})


def _objectives(
  configs: Mapping[str, ConfigDict],
  make: Callable[[ConfigDict, Collection[int], Mesh, Collection[int]], Teacher],
  mesh: Mesh,
  workdirs: Mapping[str, Path],
) -> dict[str, Objective]:
  read: dict[int, set[str]] = {}
  for config in configs.values():
    names = {PROJECTIONS[x] for name in relation_weights(config) for x in name}
    read.setdefault(config.teacher.layer, set()).update(names)
  common = next(iter(configs.values()))
  states = {n for own in configs.values() for _, n in hidden.pairs(own)}
  teacher = make(common, read, mesh, states)
  if len(configs) > 1:
    teacher = shared(teacher, read)
  return {
    name: Objective(
      teacher=teacher,
      student=make_student(config, teacher.vocab_size),
      num_heads=config.relations.num_heads,
      weights=relation_weights(config),
      implementation=config.relations.implementation,
      layer=config.teacher.layer,
      hidden=hidden_states.make_term(
        config, teacher.hidden_size, workdirs.get(name)
      ),
    )
    for name, config in configs.items()
  }


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
  c, own_seed = config.train, config.student.seed
  return StepSettings(
    # AdamW over the parameters that the loss reaches.
    tx=optimizer.make_optimizer(
      hidden_states.trained(config),
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
    seed=config.seed if own_seed < 0 else own_seed,
    accumulation=c.accumulation,
    spike=c.spike,
    ema=c.ema or None,
  )


def make_parallel(
  configs: Mapping[str, ConfigDict],
  objectives: Mapping[str, Objective],
  mesh: Mesh,
) -> partitioning.Parallel:
  """Returns the step, with its constants bound and spread over the devices.

  Args:
    configs: config of each student that the step trains, by name, as it is at
      that step.
    objectives: losses of all students of the run. Where there are
      several, each that skips too many steps in a row ends for itself.
    mesh: devices of the run.
  """
  settings = {name: step_settings(config) for name, config in configs.items()}
  if len(objectives) > 1:  # One alone ends with its run.
    settings = {
      name: dataclasses.replace(
        own,
        max_skipped=nonfinite.most_skipped(
          configs[name].train.max_skipped, configs[name].train.num_steps
        ),
      )
      for name, own in settings.items()
    }
  students = {
    name: train_step.Student(objectives[name], own)
    for name, own in settings.items()
  }
  step = functools.partial(train_step.train_step, students=students)
  common = next(iter(configs.values())).train
  if common.parallel == "pmap":
    return partitioning.with_pmap(step, mesh)
  abstract = {
    name: abstract_state(own.objective.init, own.settings, mesh)
    for name, own in students.items()
  }
  return partitioning.with_jit(step, abstract, mesh, common.global_batch_size)
