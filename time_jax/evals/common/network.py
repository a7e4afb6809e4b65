"""What every fine-tuned model is: an encoder, heads, and shapes of batches."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from time_jax.evals.common.batches import Buckets
from time_jax.evals.common.encoders import Opened
from time_jax.models import stepwise
from time_jax.models.family import Params


@dataclasses.dataclass(frozen=True)
class Network:
  """A model but for its parameters.

  Attributes:
    opened: the encoder and its tokenizer.
    heads: the network above it.
    buckets: the shapes of batches.
    mesh: the devices.
  """

  opened: Opened
  heads: Any
  buckets: Buckets
  mesh: Mesh

  def states(self, params: Params, batch: Any) -> Float[Array, "L B T D"]:
    """Hidden states of the encoder, without dropout.

    Args:
      params: "encoder", which may be unstacked, and "heads".
      batch: has the tokens as `batch`.
    """
    encoder, own = self.opened.encoder, params["encoder"]
    if isinstance(own.get("layers"), list):
      return jnp.stack(stepwise.states(encoder, own, batch.batch))
    states: Any = encoder.apply(
      {"params": own}, batch.batch, method="hidden_states"
    )
    return states
