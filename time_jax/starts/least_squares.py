"""Fits linear maps in closed form, from sums over rows that pass once.

Everything is float64 on the host: a network's states have a few directions that
are a million times as strong as their weakest, and squares double that.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Shaped

Matrix = Float[np.ndarray, "X Y"]
Vector = Float[np.ndarray, " Y"]
Rows = Shaped[Array | np.ndarray, "N Y"]


@dataclasses.dataclass
class Moments:
  """Sums over rows of inputs x and outputs y; all that a fit needs of them.

  Attributes:
    xx: sum of x x'.
    xy: sum of x y'.
    x_sum: sum of x.
    y_sum: sum of y.
    yy: sum of the squares of every output.
    count: number of rows.
  """

  xx: Float[np.ndarray, "X X"]
  xy: Float[np.ndarray, "X Y"]
  x_sum: Float[np.ndarray, " X"]
  y_sum: Float[np.ndarray, " Y"]
  yy: Float[np.ndarray, " Y"]
  count: int = 0

  @classmethod
  def empty(cls, inputs: int, outputs: int) -> "Moments":
    """Returns the moments of no rows.

    Args:
      inputs: width of x.
      outputs: width of y.
    """
    return cls(
      xx=np.zeros((inputs, inputs)),
      xy=np.zeros((inputs, outputs)),
      x_sum=np.zeros(inputs),
      y_sum=np.zeros(outputs),
      yy=np.zeros(outputs),
    )

  def add(
    self,
    x: Shaped[Array | np.ndarray, "N X"],
    y: Rows | scipy.sparse.csr_array,
  ) -> None:
    """Adds rows.

    Args:
      x: inputs, of any dtype.
      y: their outputs, of any dtype; sparse where most are 0.
    """
    x = np.asarray(x, np.float64)
    if not scipy.sparse.issparse(y):
      y = np.asarray(y, np.float64)
    self.xx += x.T @ x
    self.xy += (y.T @ x).T
    self.x_sum += x.sum(0)
    self.y_sum += y.sum(0)
    self.yy += (y * y).sum(0)
    self.count += len(x)

  def __add__(self, other: "Moments") -> "Moments":
    """Returns the moments of the rows of both."""
    fields = (field.name for field in dataclasses.fields(self))
    return type(self)(*(getattr(self, f) + getattr(other, f) for f in fields))

  @property
  def x_mean(self) -> Float[np.ndarray, " X"]:
    """The mean of the inputs; 0 of no rows."""
    return self.x_sum / max(self.count, 1)

  @property
  def y_mean(self) -> Float[np.ndarray, " Y"]:
    """The mean of the outputs; 0 of no rows."""
    return self.y_sum / max(self.count, 1)

  @property
  def scatter(self) -> Float[np.ndarray, "X X"]:
    """The sum of x x' with the mean taken off x."""
    return self.xx - np.outer(self.x_sum, self.x_mean)

  @property
  def cross_scatter(self) -> Float[np.ndarray, "X Y"]:
    """The sum of x y' with their means taken off both."""
    return self.xy - np.outer(self.x_sum, self.y_mean)

  @property
  def y_scatter(self) -> Float[np.ndarray, " Y"]:
    """The sum of the squares of every output with its mean taken off."""
    return self.yy - self.y_sum * self.y_mean


def solve(
  moments: Moments, prior: Matrix | float, strength: float
) -> tuple[Matrix, Vector]:
  """Returns the linear map that fits best, drawn to a prior: ridge regression.

  It minimises |Y - X W - b|^2 + lambda |W - prior|^2 over the rows, with lambda
  = strength * trace(X'X) / width and X, Y without their means, so that strength
  means the same for few rows and many, and for small inputs and large:

    W = prior + (X'X + lambda I)^-1 X'(Y - X prior)
    b = mean(y) - mean(x) W

  Directions in which no input differs keep the prior.

  Args:
    moments: of the rows.
    prior: the map that the fit is drawn to; 0.0: ridge regression as it is
      known.
    strength: 0: least squares; large: the prior, with b fitted alone.

  Returns:
    W, b: y is about x @ W + b.

  Raises:
    numpy.linalg.LinAlgError: the moments are not finite.
  """
  return solve_each(moments, prior, [strength])[0]


def solve_each(
  moments: Moments, prior: Matrix | float, strengths: Sequence[float]
) -> list[tuple[Matrix, Vector]]:
  """Returns `solve` for each of several strengths, for the price of one."""
  scatter = moments.scatter
  first = np.broadcast_to(np.asarray(prior, np.float64), moments.xy.shape)
  values, vectors = np.linalg.eigh(scatter)
  # Below this an eigenvalue is rounding: that of the sums, not of the inputs.
  noise = len(values) * np.finfo(np.float64).eps * np.trace(moments.xx)
  values, vectors = values[values > noise], vectors[:, values > noise]
  missing = vectors.T @ (moments.cross_scatter - scatter @ first)
  solutions = []
  for strength in strengths:
    penalty = strength * np.trace(scatter) / len(scatter)
    kernel = first + vectors @ (missing / (values + penalty)[:, None])
    solutions.append((kernel, moments.y_mean - moments.x_mean @ kernel))
  return solutions


def squared_error(moments: Moments, kernel: Matrix, bias: Vector) -> Vector:
  """Returns the sum of (y - x @ kernel - bias)^2 over rows, for each output.

  Args:
    moments: of the rows, which need not be those of the fit.
    kernel: W of `solve`.
    bias: b of `solve`.
  """
  missed = (
    moments.yy
    - 2 * (kernel * moments.xy).sum(0)
    + (kernel * (moments.xx @ kernel)).sum(0)
  )
  shift = 2 * (moments.x_sum @ kernel - moments.y_sum) + moments.count * bias
  # What is nothing but rounding may be below 0.
  return np.maximum(missed + bias * shift, 0)


def scale_and_shift(n: Rows, t: Rows) -> tuple[Vector, Vector]:
  """Fits t as n * scale + shift, every column on its own: a layer norm's.

  Args:
    n: values before scale and shift.
    t: what they should become.

  Returns:
    scale, shift: of a column that does not differ in n, 0 and the mean of t.
  """
  n, t = np.asarray(n, np.float64), np.asarray(t, np.float64)
  n_mean, t_mean = n.mean(0), t.mean(0)
  centred = n - n_mean
  variance = np.square(centred).sum(0)
  covariance = (centred * (t - t_mean)).sum(0)
  known = variance > np.finfo(np.float64).eps * np.square(n).sum(0)
  scale = np.where(known, covariance / np.where(known, variance, 1), 0)
  return scale, t_mean - n_mean * scale
