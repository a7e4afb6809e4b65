"""Whether a model's layers fit a student that begins with them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from time_jax.core.errors import UserError
from time_jax.hf import model_identity
from time_jax.models.bert import BertConfig
from time_jax.starts import layer_choice

_WIDTHS = ("hidden_size", "num_heads", "intermediate_size")


def narrowed(source: BertConfig, shape: BertConfig) -> BertConfig:
  """Returns what a teacher's sizes become for a student: smaller, if needed.

  Args:
    source: sizes of the teacher.
    shape: sizes of the student.
  """
  smaller = {
    name: min(getattr(shape, name), getattr(source, name)) for name in _WIDTHS
  }
  if smaller["hidden_size"] % smaller["num_heads"]:
    return source  # The student has something that the teacher has not.
  return dataclasses.replace(source, **smaller)


def is_narrower(shape: BertConfig, source: BertConfig) -> bool:
  """Returns whether a student's layers differ in size from its teacher's.

  Args:
    shape: sizes of the student.
    source: sizes of the teacher.
  """
  return any(getattr(shape, name) != getattr(source, name) for name in _WIDTHS)


def same_epsilon(a: float, b: float) -> bool:
  """Returns whether two epsilons are equal in float32, as they are used."""
  return bool(np.float32(a) == np.float32(b))


def check_architecture(shape: Any, name: str) -> None:
  """Checks that a model is a network of the kind that students are.

  Args:
    shape: config of the model, of any family.
    name: name of the model, for the message.

  Raises:
    UserError: it is another kind of network.
  """
  if not model_identity.is_student(shape):
    raise UserError(
      f"{name} is built otherwise than students are; expected a BERT, RoBERTa, "
      "CamemBERT or XLM-R with exact GELU."
    )


def check_sizes(
  source: BertConfig, layers: Sequence[int], shape: BertConfig
) -> None:
  """Checks that a student can have a model's layers.

  Args:
    source: sizes of the model.
    layers: its layer for each one of the student.
    shape: sizes of the student.

  Raises:
    UserError: names all sizes in which the model does not fit.
  """
  wanted = dataclasses.asdict(shape)
  given = dataclasses.asdict(source) | {"num_layers": len(layers)}
  names = ["num_layers", "hidden_size", "num_heads", "intermediate_size"]
  names = [name for name in names if given[name] != wanted[name]]
  if not same_epsilon(source.layer_norm_eps, shape.layer_norm_eps):
    names.append("layer_norm_eps")
  if source.max_positions < shape.max_positions:
    names.append("max_positions")
  problems = [
    f"student.{name}={wanted[name]}, there it is {given[name]}"
    for name in names
  ]
  if source.vocab_size != shape.vocab_size:
    problems.append(
      f"the teacher has {shape.vocab_size} words, there are {source.vocab_size}"
    )
  if problems:
    raise UserError(
      "the student's first weights do not fit it: " + "; ".join(problems) + "."
    )


def layers_of(
  init_from: str, distilled: int, source: Any, shape: BertConfig
) -> Sequence[int]:
  """Returns a model's layer for each one of a student; checks that they fit.

  Args:
    init_from: the model; where it is the teacher, layers may be chosen, and
      they may be wider than the student's.
    distilled: the teacher's layer that is distilled.
    source: sizes of the model, of any family.
    shape: sizes of the student.

  Raises:
    UserError: they do not fit.
  """
  check_architecture(source, init_from)
  if not layer_choice.is_teacher(init_from):
    layers: Sequence[int] = range(1, source.num_layers + 1)
    check_sizes(source, layers, shape)
    return layers
  layers = layer_choice.layers_of(init_from, shape.num_layers, distilled)
  if wrong := [x for x in layers if not 1 <= x <= source.num_layers]:
    raise UserError(
      f"student.init_from={init_from}: the teacher has no layer {wrong[0]}; "
      f"expected numbers from 1 to {source.num_layers}."
    )
  check_sizes(narrowed(source, shape), layers, shape)
  return layers


def check_layers_of_teacher(
  init_from: str, distilled: int, teacher: Any, shape: BertConfig
) -> None:
  """Checks layers that a student takes of its teacher, without a run of it.

  Args:
    init_from: what the student begins with; nothing is checked unless it is
      its teacher.
    distilled: as for `layers_of`.
    teacher: sizes of the teacher, of any family.
    shape: sizes of the student, whose epsilon need not be that of the teacher:
      a run takes it over.

  Raises:
    UserError: they do not fit.
  """
  if not layer_choice.is_teacher(init_from):
    return
  epsilon = getattr(teacher, "layer_norm_eps", shape.layer_norm_eps)
  shape = dataclasses.replace(shape, layer_norm_eps=epsilon)
  layers_of(init_from, distilled, teacher, shape)
