"""Counts the arithmetic of a step.

The matrix products that the method needs are counted, whatever the
implementation, as in the definition of MFU (Chowdhery et al., PaLM, arXiv
2204.02311, appendix B). Embedding look-ups, softmax, norms, the optimizer and
what rematerialisation computes again do not count.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, jaxprs_in_params
from jax.interpreters import partial_eval

from time_jax.core.arrays import PROJECTIONS, Batch
from time_jax.models.family import Params
from time_jax.step.objective import Objective

_BACKWARD = 2  # Per product, one for the gradient of each factor.


@dataclasses.dataclass(frozen=True)
class StepFlops:
  """Floating-point operations of one step; a multiply-add counts as two.

  Attributes:
    teacher: forward pass up to the distilled projections.
    student: forward and backward pass up to the last block's projections.
    relations: forward pass of both sides, backward pass of the student's.
  """

  teacher: int
  student: int
  relations: int

  @property
  def total(self) -> int:
    """Returns the operations of the whole step."""
    return self.teacher + self.student + self.relations


def step_flops(objective: Objective, params: Params, batch: Batch) -> StepFlops:
  """Counts the operations of one step, without computing anything.

  Attention and relations count for whole rows, T x S pairs of tokens. Packing,
  padding and the window of a local attention change nothing.

  Args:
    objective: the relation loss, with teacher and student.
    params: parameters of the student, real or abstract.
    batch: global batch, real or abstract.
  """

  def student(params: Params, batch: Batch) -> Any:
    return objective.student.apply({"params": params}, batch)

  teacher = matmul_flops(objective.targets, objective.teacher.params, batch)
  forward = matmul_flops(student, params, batch)
  targets = jax.eval_shape(objective.targets, objective.teacher.params, batch)
  projections: Any = jax.eval_shape(student, params, batch)
  return StepFlops(
    teacher,
    forward * (1 + _BACKWARD),
    sum(
      _relation(getattr(targets, PROJECTIONS[name[0]]).shape)
      + _relation(getattr(projections, PROJECTIONS[name[0]]).shape)
      * (1 + _BACKWARD)
      for name in objective.weights
    ),
  )


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
