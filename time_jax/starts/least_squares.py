"""Fits linear maps in closed form, from sums over rows that pass once.

Everything is float64 on the host: a network's states have a few directions that
are a million times as strong as their weakest, and squares double that.
"""

import dataclasses

import numpy as np
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

  def add(self, x: Shaped[Array | np.ndarray, "N X"], y: Rows) -> None:
    """Adds rows.

    Args:
      x: inputs, of any dtype.
      y: their outputs, of any dtype.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    self.xx += x.T @ x
    self.xy += x.T @ y
    self.x_sum += x.sum(0)
    self.y_sum += y.sum(0)
    self.yy += np.square(y).sum(0)
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
    prior: the map that the fit is drawn to; 0: ridge regression as it is known.
    strength: 0: least squares; large: the prior, with b fitted alone.

  Returns:
    W, b: y is about x @ W + b.

  Raises:
    numpy.linalg.LinAlgError: the moments are not finite.
  """
  scatter = moments.scatter
  kernel = np.broadcast_to(
    np.asarray(prior, np.float64), moments.xy.shape
  ).copy()
  values, vectors = np.linalg.eigh(scatter)
  # Below this an eigenvalue is rounding: that of the sums, not of the inputs.
  noise = len(values) * np.finfo(np.float64).eps * np.trace(moments.xx)
  known = values > noise
  values, vectors = values[known], vectors[:, known]
  penalty = strength * np.trace(scatter) / len(scatter)
  missing = moments.cross_scatter - scatter @ kernel
  kernel += vectors @ (vectors.T @ missing / (values + penalty)[:, None])
  return kernel, moments.y_mean - moments.x_mean @ kernel


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
