"""A fine-tuned model that is ready to annotate."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from time_jax.config.finetune import EngineName
from time_jax.core.errors import UserError
from time_jax.evals.common import model_folder
from time_jax.evals.common.batches import make_buckets
from time_jax.evals.common.engine import Engine, Work
from time_jax.evals.common.task import Beat, Network
from time_jax.evals.predict import engines
from time_jax.evals.predict.formats import FORMATS, Format
from time_jax.hf import fine_tuned
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.step import machine


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A fine-tuned model that is ready to annotate.

  Attributes:
    task: its task, such as "ud".
    network: encoder and heads.
    engine: computes them.
    computed_by: which engine that is, in words.
  """

  task: str
  network: Network
  engine: Engine
  computed_by: str

  @property
  def format(self) -> Format:
    """How the task reads and writes."""
    return FORMATS[self.task]

  def annotate(
    self, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[Any]:
    """Returns the items with what is predicted for them.

    Args:
      items: items of the task, annotated or not: see `Format.read`.
      beat: called after every batch.
    """
    return self.finish(self.prepare(items), beat)

  def prepare(self, items: Sequence[Any]) -> Work:
    """Returns the batches of items; another thread may do so."""
    return self.network.prepare(items)

  def finish(self, work: Work, beat: Beat) -> list[Any]:
    """Returns the items with what is predicted for them.

    Args:
      work: what `prepare` has made of the items.
      beat: called after every batch.
    """
    return self.network.finish(self.engine, work, beat)


def open_network(folder: pathlib.Path) -> tuple[Network, Params]:
  """Opens the folder of a fine-tuned model.

  Args:
    folder: such as WORKDIR/seed-0/model of `finetune`.

  Returns:
    The network, without parameters; and these, on the host.

  Raises:
    UserError: there is no such model.
  """
  description = fine_tuned.read_description(folder)
  task = description["task"]
  if task not in [*FORMATS]:  # Anything may stand in the file.
    raise UserError(
      f"{folder} is of task {task!r}; expected one of {', '.join(FORMATS)}."
    )
  mesh = sharding.make_mesh()
  opened, params = model_folder.read_model(folder, mesh)
  lengths = description["buckets"]
  buckets = make_buckets(lengths, max(lengths), mesh)
  # Whatever computes has the parameters, in the form that it needs.
  opened = dataclasses.replace(opened, params=None)
  network = FORMATS[task].network(description, opened, buckets, mesh)
  model_folder.check_heads(folder, network, params["heads"])
  return network, params


def open_pipeline(
  folder: pathlib.Path, engine: EngineName = "auto", int8: bool = False
) -> Pipeline:
  """Opens the folder of a fine-tuned model, to annotate.

  Args:
    folder: see `open_network`.
    engine: what computes it; for "auto" see `engines`.
    int8: whether matrices are in 8 bits.

  Raises:
    UserError: there is no such model, or the engine cannot compute it.
  """
  machine.use_compilation_cache()
  network, params = open_network(folder)
  chosen, name = engines.open_engine(network, params, engine, int8=int8)
  return Pipeline(network.spec["task"], network, chosen, name)
