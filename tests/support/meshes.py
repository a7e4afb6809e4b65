"""Meshes over the forced CPU devices."""

import jax
import numpy as np

from time_jax.parallel import sharding


def make_mesh(*sizes: int) -> jax.sharding.Mesh:
  """A mesh over the first devices, as many as it takes."""
  devices = np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes)
  return jax.sharding.Mesh(
    devices, sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
  )
