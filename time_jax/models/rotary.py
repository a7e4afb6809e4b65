"""Rotary position embedding (RoPE; Su et al., arXiv 2104.09864)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from time_jax.core.arrays import Ids, Qkv
from time_jax.core.errors import UserError


def angles(
  positions: Ids, head_dim: int, theta: float
) -> Float[Array, "B T half"]:
  """Returns the angles position x theta^(-2m / H), m < H / 2, in float32."""
  frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
  frequencies = frequencies.astype(np.float32)[None, None]
  return jnp.asarray(positions)[..., None] * frequencies


def rotate(
  x: Float[Array, "B T D"], angle: Float[Array, "B T half"]
) -> Float[Array, "B T D"]:
  """Rotates the pairs (m, m + H/2) of every head, in float32.

  Args:
    x: heads side by side, D = N x H.
    angle: for each position the angles of its H/2 pairs.
  """
  heads = x.reshape(*x.shape[:2], -1, 2, angle.shape[-1])
  first, second = heads[..., 0, :], heads[..., 1, :]
  cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
  turned = first * cos - second * sin, second * cos + first * sin
  return jnp.stack(turned, axis=-2).reshape(x.shape).astype(x.dtype)


def rotate_qkv(qkv: Qkv, angle: Float[Array, "B T half"]) -> Qkv:
  """Rotates query and key, see `rotate`; the value stays."""
  return Qkv(rotate(qkv.query, angle), rotate(qkv.key, angle), qkv.value)


def theta_of(rope: Mapping[str, Any], default: float) -> float:
  """Reads RoPE's base from one entry of a config's `rope_parameters`.

  Args:
    rope: the entry; may be empty.
    default: returned where the entry names no base.

  Raises:
    UserError: the frequencies are scaled (YaRN and the like).
  """
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind != "default":
    raise UserError(
      f"rope_type={kind!r} is not supported; expected 'default': scaled "
      "rotary frequencies (YaRN, linear, dynamic) have no reference here."
    )
  return rope.get("rope_theta") or default
