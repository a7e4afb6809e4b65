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
from time_jax.core.storage.paths import local_path
from time_jax.hf import files
from time_jax.models import bert
from time_jax.models.family import Path
from time_jax.step.hidden_term import HiddenTerm


def make_term(config: ConfigDict) -> HiddenTerm | None:
  """Returns the term; None where it has no weight.

  Args:
    config: config of a student.

  Raises:
    UserError: the projection cannot be read.
  """
  if not config.hidden.weight:
    return None
  projection = None
  if config.hidden.projection:
    projection = _read_projection(config.hidden.projection)
  return HiddenTerm(config.hidden.weight, hidden.pairs(config), projection)


def check_term(config: ConfigDict, teacher: Any) -> None:
  """Checks that the term fits teacher and student.

  Args:
    config: config of a student.
    teacher: sizes of the teacher.

  Raises:
    UserError: it does not fit.
  """
  term = make_term(config)
  if term is None:
    return
  if config.teacher.loader != "own":
    raise UserError(
      f"hidden.weight={config.hidden.weight} needs hidden states, which "
      f"teacher.loader={config.teacher.loader!r} does not hand out; expected "
      "teacher.loader='own'."
    )
  for layer in term.teacher_layers:
    if not 1 <= layer <= teacher.num_layers:
      raise UserError(
        f"hidden.pairs names layer {layer} of the teacher, which has layers 1 "
        f"to {teacher.num_layers}."
      )
  expected = teacher.hidden_size, config.student.hidden_size
  if term.projection is None and expected[0] != expected[1]:
    raise UserError(
      f"hidden.weight={config.hidden.weight}: hidden states of the teacher are "
      f"{expected[0]} wide, those of the student {expected[1]}; expected equal "
      "widths, or a file with a matrix of that shape as hidden.projection: "
      "start/basis.safetensors, which `time_jax start` writes for a narrower "
      "student."
    )
  if term.projection is not None and term.projection.shape != expected:
    raise UserError(
      f"hidden.projection={config.hidden.projection!r} has the shape "
      f"{term.projection.shape}; expected {expected}, the widths of the "
      "teacher's and the student's hidden states."
    )


def projection_sha256(config: ConfigDict) -> str:
  """Returns the hash of the projection's file; empty where none is used."""
  used = config.hidden.weight and config.hidden.projection
  return files.sha256(local_path(config.hidden.projection)) if used else ""


def trained(config: ConfigDict) -> Callable[[Path], bool]:
  """Returns which parameters of a student its loss depends on, by path.

  Args:
    config: its config.
  """
  last = config.student.num_layers
  if any(own == last for own, _ in hidden.pairs(config)):
    return bert.FAMILY.feeds_state
  return bert.FAMILY.feeds_projections


def _read_projection(name: str) -> Float[np.ndarray, "Dt Ds"]:
  """Reads the only matrix of a safetensors file."""
  path = local_path(name)
  try:
    matrices = list(safetensors.numpy.load_file(path).values())
  except OSError as error:
    raise UserError(
      f"hidden.projection={name!r} cannot be read: {explain_refusal(error)}."
    ) from error
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise UserError(
      f"hidden.projection={name!r} is no safetensors file of float32: {error}."
    ) from error
  sound = len(matrices) == 1 and matrices[0].ndim == 2
  if not (sound and np.isfinite(matrices[0]).all()):
    raise UserError(
      f"hidden.projection={name!r} holds "
      f"{[matrix.shape for matrix in matrices]}; expected one matrix of finite "
      "numbers."
    )
  return matrices[0].astype(np.float32)
