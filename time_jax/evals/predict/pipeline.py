"""A fine-tuned model that is ready to annotate."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from time_jax.core.errors import UserError
from time_jax.evals.common import model_folder
from time_jax.evals.common.batches import make_buckets
from time_jax.evals.common.engine import Work
from time_jax.evals.common.task import Network
from time_jax.evals.predict.formats import FORMATS, Format
from time_jax.models.family import Params
from time_jax.parallel import sharding
from time_jax.step import machine


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """A fine-tuned model that is ready to annotate.

  Attributes:
    task: its task, such as "ud".
    network: encoder and heads.
    params: their parameters.
  """

  task: str
  network: Network
  params: Params

  @property
  def format(self) -> Format:
    """How the task reads and writes."""
    return FORMATS[self.task]

  def annotate(self, items: Sequence[Any]) -> list[Any]:
    """Returns the items with what is predicted for them.

    Args:
      items: items of the task, annotated or not: see `Format.read`.
    """
    return self.finish(items, self.prepare(items))

  def prepare(self, items: Sequence[Any]) -> Work:
    """Returns the batches of items; another thread may do so."""
    return self.network.prepare(items)

  def finish(self, items: Sequence[Any], work: Work) -> list[Any]:
    """Returns the items with what is predicted for them.

    Args:
      items: items of the task, annotated or not.
      work: what `prepare` has made of them.
    """
    engine = self.network.engine(self.params)
    return self.network.finish(engine, items, work)


def open_pipeline(folder: pathlib.Path) -> Pipeline:
  """Opens the folder of a fine-tuned model.

  Args:
    folder: such as WORKDIR/seed-0/model of `finetune`.

  Raises:
    UserError: there is no such model.
  """
  description = model_folder.read_description(folder)
  task = description["task"]
  if task not in FORMATS:
    raise UserError(
      f"{folder} is of task {task!r}; expected one of {', '.join(FORMATS)}."
    )
  machine.use_compilation_cache()
  mesh = sharding.make_mesh()
  opened, params = model_folder.read_model(folder, mesh)
  lengths = description["buckets"]
  buckets = make_buckets(lengths, max(lengths), mesh)
  network = FORMATS[task].network(description, opened, buckets, mesh)
  return Pipeline(task, network, params)
