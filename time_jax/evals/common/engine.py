"""Computes the programs of a network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from jax.sharding import Mesh

from time_jax.evals.common import batches
from time_jax.evals.common.batches import Numbers
from time_jax.models.family import Params
from time_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Work:
  """Items in the shape in which a network takes them.

  Attributes:
    items: sentences or questions, annotated or not.
    examples: parts of the items, by number.
    batches: for each batch the numbers of its examples by row, and the batch
      on the host.
  """

  items: Sequence[Any]
  examples: Sequence[Any]
  batches: Sequence[tuple[Sequence[Numbers], Any]]


class Engine(Protocol):
  """Computes the programs of a network with its parameters."""

  def start(self, program: str, *inputs: Any) -> Any:
    """Starts a program.

    Args:
      program: key of `task.Network.programs`.
      *inputs: what it takes besides parameters: arrays on the host, or what
        another program has returned.

    Returns:
      Its outputs, which may still be computed; `jax.device_get` and
      `jax.block_until_ready` wait for them.
    """


@dataclasses.dataclass(frozen=True)
class JaxEngine:
  """JAX, on the devices of a mesh; see `Engine`.

  Attributes:
    programs: the compiled programs, by name; see `task.Network.compiled`.
    params: parameters of the network.
    mesh: the devices.
  """

  programs: Mapping[str, Callable[..., Any]]
  params: Params
  mesh: Mesh

  def start(self, program: str, *inputs: Any) -> Any:
    """See `Engine`."""
    with sharding.use_mesh(self.mesh):
      placed = [batches.place(each, self.mesh) for each in inputs]
      return self.programs[program](self.params, *placed)
