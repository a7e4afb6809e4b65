"""Makes the hidden-state term of a student's loss from its config."""

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float
from ml_collections import ConfigDict

from time_jax.config import hidden
from time_jax.core.errors import UserError, explain_refusal
from time_jax.core.storage.paths import Path, local_path
from time_jax.hf import files
from time_jax.models import bert, family
from time_jax.run import narrowed_start
from time_jax.starts import layer_choice
from time_jax.step.hidden_term import HiddenTerm

# As hidden.projection: the basis by which the student's start became narrower.
START = "start"


def make_term(
  config: ConfigDict, width: int, workdir: Path | None = None
) -> HiddenTerm | None:
  """Returns the term; None where it has no weight.

  Args:
    config: config of a student.
    width: width of the teacher's hidden states.
    workdir: the student's folder, where its start is. None: there is none; any
      matrix takes the place of its basis, so that the term can be checked,
      compiled and timed, but nothing learnt.

  Raises:
    UserError: the projection cannot be read.
  """
  if not config.hidden.weight:
    return None
  projection = None
  if source := _source(config, width):
    if source == START and workdir is None:
      shape = width, config.student.hidden_size
      projection = np.eye(*shape, dtype=np.float32)
    else:
      projection = _read_projection(_file(source, workdir))
  return HiddenTerm(config.hidden.weight, hidden.pairs(config), projection)


def check_term(config: ConfigDict, teacher: Any) -> None:
  """Checks that the term fits teacher and student.

  Args:
    config: config of a student.
    teacher: sizes of the teacher.

  Raises:
    UserError: it does not fit.
  """
  h, s = config.hidden, config.student
  term = make_term(config, teacher.hidden_size)
  if term is None:
    return
  if config.teacher.loader != "own":
    raise UserError(
      f"hidden.weight={h.weight} needs hidden states, which "
      f"teacher.loader={config.teacher.loader!r} does not hand out; expected "
      "teacher.loader='own'."
    )
  narrowed = layer_choice.is_teacher(s.init_from)
  if _source(config, teacher.hidden_size) == START and not narrowed:
    raise UserError(
      f"hidden.projection={START!r} is for a student that begins with layers "
      f"of its teacher, made narrower, not with student.init_from="
      f"{s.init_from!r}; expected student.init_from=teacher:spaced, or a file, "
      f"such as {narrowed_start.FOLDER}/{narrowed_start.BASIS} of the run that "
      "the student is of, or a recipe that learns relations, such as paper."
    )
  for layer in term.teacher_layers:
    if not 1 <= layer <= teacher.num_layers:
      raise UserError(
        f"hidden.pairs names layer {layer} of the teacher, which has layers 1 "
        f"to {teacher.num_layers}."
      )
  expected = teacher.hidden_size, s.hidden_size
  if term.projection is None and expected[0] != expected[1]:
    raise UserError(
      f"hidden.weight={h.weight}: hidden states of the teacher are "
      f"{expected[0]} wide, those of the student {expected[1]}; expected equal "
      f"widths, hidden.projection={START} for a student that begins with "
      "layers of its teacher, or a file with a matrix of that shape."
    )
  if term.projection is not None and term.projection.shape != expected:
    raise UserError(
      f"hidden.projection={h.projection!r} has the shape "
      f"{term.projection.shape}; expected {expected}, the widths of the "
      "teacher's and the student's hidden states."
    )


def projection_sha256(config: ConfigDict, width: int, workdir: Path) -> str:
  """Returns the hash of the projection's file; empty where none is used.

  Args:
    config: config of a student.
    width: width of the teacher's hidden states.
    workdir: the student's folder.
  """
  source = config.hidden.weight and _source(config, width)
  return files.sha256(_file(source, workdir)) if source else ""


def _source(config: ConfigDict, width: int) -> str:
  """Returns where the projection comes from; empty: none is needed."""
  source = config.hidden.projection
  same = width == config.student.hidden_size
  return "" if source == START and same else source


def _file(source: str, workdir: Path | None) -> Path:
  """Returns the file with a projection."""
  if source != START or workdir is None:
    return local_path(source)
  path = workdir / narrowed_start.FOLDER / narrowed_start.BASIS
  if not path.exists():
    raise UserError(
      f"hidden.projection={START!r}: {path} is not there, which `distill` "
      "writes before the first step. Copy it from where the run began. A run "
      "that began with another recipe goes on with that one: `time` of earlier "
      "versions is `paper` where the teacher is wider than the student."
    )
  return path


def trained(config: ConfigDict) -> Callable[[family.Path], bool]:
  """Returns which parameters of a student its loss depends on, by path.

  Args:
    config: its config.
  """
  last = config.student.num_layers
  if any(own == last for own, _ in hidden.pairs(config)):
    return bert.FAMILY.feeds_state
  return bert.FAMILY.feeds_projections


def _read_projection(path: Path) -> Float[np.ndarray, "Dt Ds"]:
  """Reads the only matrix of a safetensors file."""
  try:
    matrices = list(safetensors.numpy.load_file(path).values())
  except OSError as error:
    raise UserError(
      f"hidden.projection: {path} cannot be read: {explain_refusal(error)}. "
      f"Expected a safetensors file, or {START!r}."
    ) from error
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise UserError(
      f"hidden.projection: {path} is no safetensors file of float32: {error}."
    ) from error
  sound = len(matrices) == 1 and matrices[0].ndim == 2
  if not (sound and np.isfinite(matrices[0]).all()):
    raise UserError(
      f"hidden.projection: {path} holds "
      f"{[matrix.shape for matrix in matrices]}; expected one matrix of finite "
      "numbers."
    )
  return matrices[0].astype(np.float32)
