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
  name, own_width = config.hidden.projection, config.student.hidden_size
  if not name or (name == START and width == own_width):
    projection = None
  elif name == START and workdir is None:
    projection = np.eye(width, own_width, dtype=np.float32)
  else:
    projection = _read_projection(_projection_file(name, workdir))
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
  if h.projection == START and not layer_choice.is_teacher(s.init_from):
    raise UserError(
      f"hidden.projection={START!r} is for a student that begins with layers "
      f"of its teacher, made narrower, not with student.init_from="
      f"{s.init_from!r}; expected student.init_from=teacher:spaced, or a file."
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


def projection_sha256(config: ConfigDict, workdir: Path) -> str:
  """Returns the hash of the projection's file; empty where none is used.

  Args:
    config: config of a student.
    workdir: its folder.
  """
  if not (config.hidden.weight and config.hidden.projection):
    return ""
  path = _projection_file(config.hidden.projection, workdir)
  # A student as wide as its teacher has no basis.
  needed = config.hidden.projection != START or path.exists()
  return files.sha256(path) if needed else ""


def _projection_file(name: str, workdir: Path | None) -> Path:
  if name == START and workdir is not None:
    return workdir / narrowed_start.FOLDER / narrowed_start.BASIS
  return local_path(name)


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
      f"hidden.projection: {path} cannot be read: {explain_refusal(error)}."
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
