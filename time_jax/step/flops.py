"""Counts the arithmetic of a step.

The matrix products that the method needs are counted, whatever the
implementation, as in the definition of MFU (Chowdhery et al., PaLM, arXiv
2204.02311, appendix B). Embedding look-ups, softmax, norms, the optimizer and
what rematerialisation computes again do not count.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import Jaxpr, jaxprs_in_params
from jax.interpreters import partial_eval

from time_jax.core.arrays import PROJECTIONS, Batch
from time_jax.models.family import Params
from time_jax.step.objective import Objective, targets_of

_BACKWARD = 2  # Per product, one for the gradient of each factor.


@dataclasses.dataclass(frozen=True)
class StepFlops:
  """Floating-point operations of one step; a multiply-add counts as two.

  Attributes:
    teacher: forward pass up to the distilled projections.
    student: forward and backward passes of the students, up to the last block's
      projections or its hidden states.
    relations: forward passes of both sides, backward passes of the students';
      of hidden states the teacher's projection.
  """

  teacher: int
  student: int
  relations: int

  @property
  def total(self) -> int:
    """Returns the operations of the whole step."""
    return self.teacher + self.student + self.relations


def step_flops(
  objectives: Mapping[str, Objective],
  params: Mapping[str, Params],
  batch: Batch,
) -> StepFlops:
  """Counts the operations of one step, without computing anything.

  The teacher counts once, whoever learns of it. Attention and relations count
  for whole rows, T x S pairs of tokens. Packing, padding and the window of a
  local attention change nothing.

  Args:
    objectives: loss of each student, by name; all of one teacher.
    params: parameters of each student, real or abstract.
    batch: global batch, real or abstract.
  """
  ask = functools.partial(targets_of, objectives)
  teacher_params = next(iter(objectives.values())).teacher.params
  targets = jax.eval_shape(ask, teacher_params, batch)
  student, relations = 0, 0
  for name, objective in objectives.items():
    forward = functools.partial(_forward, objective)
    student += matmul_flops(forward, params[name], batch) * (1 + _BACKWARD)
    projections: Any = jax.eval_shape(forward, params[name], batch)[0]
    asked = targets[name].projections[objective.layer]
    for relation in objective.weights:
      field = PROJECTIONS[relation[0]]
      relations += _relation(getattr(asked, field).shape)
      relations += _relation(getattr(projections, field).shape) * (
        1 + _BACKWARD
      )
    if objective.hidden is not None:
      for state in targets[name].states.values():
        relations += matmul_flops(objective.hidden.aim, state)
  return StepFlops(matmul_flops(ask, teacher_params, batch), student, relations)


def _forward(objective: Objective, params: Params, batch: Batch) -> Any:
  return objective.forward(params, batch)


def _relation(shape: tuple[int, ...]) -> int:
  rows, length, width = shape  # Heads split the width, so R does not matter.
  return 2 * rows * length**2 * width


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> int:
  """Returns the operations in a function's matrix products and convolutions.

  They are counted in its jaxpr, so that every encoder is counted as it is
  written. Dead code does not count.

  Args:
    function: function that jax.jit could take.
    *arguments: its arguments: arrays, or shapes and dtypes.
  """
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(jaxpr)


def _count(jaxpr: Jaxpr) -> int:
  return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
  name, params = equation.primitive.name, equation.params
  out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
  if name == "dot_general":
    (contracting, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    # Without a sum it is no product of matrices: RoPE's angles, say.
    width = math.prod(shape[axis] for axis in contracting)
    return 2 * out * width if contracting else 0
  if name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    features = kernel[params["dimension_numbers"].rhs_spec[0]]
    return 2 * out * math.prod(kernel) // features
  inner = [_count(jaxpr) for jaxpr in jaxprs_in_params(params)]
  if name == "scan":
    return params["length"] * sum(inner)
  if name == "pallas_call":
    return math.prod(params["grid_mapping"].grid) * sum(inner)
  if name == "while" and any(inner):
    raise NotImplementedError("matrix products in a loop of unknown length")
  return max(inner, default=0) if name == "cond" else sum(inner)
