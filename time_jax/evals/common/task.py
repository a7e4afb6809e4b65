"""What a task is, for `finetune`: its data, its network and its scores."""

import abc
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from time_jax.evals.common.batches import Buckets, Examples, silent
from time_jax.evals.common.encoders import Opened
from time_jax.models.family import Params

SPLITS = ("train", "dev", "test")
SCORE = "dev/score"  # The best epoch has the highest.


class Task(abc.ABC):
  """A task with its data and its network.

  An *item* is what its files hold: a sentence, or a question.

  Attributes:
    name: behind `finetune`.
    metrics: what its scorer gives, in the order of the report.
    scorer: who scores.
    ending: of the files with predictions.
    pipe: what `predict` reads and writes, as a shell has it.
    touch: method of the heads that touches all their parameters.
    no_matter: fields of the recipe that do not shape the result of a seed.
    config: the recipe.
    data: split -> items.
    opened: the encoder.
    buckets: the shapes of batches.
    network: the encoder with its heads, which annotates items.
    heads: the network above the encoder.
    examples: of the training file.
  """

  name: ClassVar[str]
  metrics: ClassVar[tuple[str, ...]]
  scorer: str
  ending: ClassVar[str]
  pipe: ClassVar[str]
  touch: ClassVar[str] = "__call__"
  no_matter: ClassVar[tuple[str, ...]] = (
    *("seeds", "model", "step", "lang", "label", "allow_pickle"),
  )
  network: Any
  heads: Any
  examples: Examples

  @abc.abstractmethod
  def __init__(
    self,
    config: ConfigDict,
    data: Mapping[str, Sequence[Any]],
    opened: Opened,
    buckets: Buckets,
    mesh: Mesh,
  ) -> None:
    """Learns the classes of the training file and makes examples of it."""
    del mesh
    self.config, self.data = config, data
    self.opened, self.buckets = opened, buckets

  @staticmethod
  @abc.abstractmethod
  def load_libraries() -> None:
    """UserError where a package is missing that is needed later."""

  @staticmethod
  @abc.abstractmethod
  def read(path: pathlib.Path) -> list[Any]:
    """The items of a file."""

  @abc.abstractmethod
  def losses(
    self, variables: dict, states: Array, batch: Any, rng: Array
  ) -> dict[str, Array]:
    """The parts of the loss; pure.

    Args:
      variables: of the heads, as `apply` takes them.
      states: hidden states of the encoder, [L B T D].
      batch: with targets.
      rng: for dropout.
    """

  @abc.abstractmethod
  def score(
    self, split: str, found: Sequence[Any]
  ) -> Mapping[str, float | None]:
    """The metrics of predicted items, in percent; None: undefined."""

  def breakdown(self, split: str, found: Sequence[Any]) -> dict[str, Any]:
    """Counts behind the metrics, for `report --by`; by default none."""
    del split, found
    return {}

  @abc.abstractmethod
  def quality(self, scores: Mapping[str, Any]) -> float:
    """What the best epoch is chosen by; higher is better."""

  @abc.abstractmethod
  def to_text(self, found: Sequence[Any]) -> str:
    """Items as a scorer reads them from a file."""

  @abc.abstractmethod
  def record(self) -> dict[str, Any]:
    """Heads and classes, for task.json."""

  def annotate(
    self,
    params: Params,
    items: Sequence[Any],
    beat: Callable[[], None] = silent,
  ) -> list[Any]:
    """The items with what is predicted; `beat` is called after every batch."""
    return self.network.annotate(params, items, beat)

  def fresh(self, rng: Array) -> Params:
    """Returns random parameters, "encoder" and "heads", boxed; pure."""
    encoder, heads = jax.random.split(rng)
    params = self.opened.fresh(encoder)
    batch = self.examples.fill([], 1, 1)
    states = jax.eval_shape(
      lambda: self.opened.encoder.apply(
        {"params": params}, batch.batch, method="hidden_states"
      )
    )
    variables = self.heads.init(
      heads, jnp.zeros(states.shape), batch, method=self.touch
    )
    return {"encoder": params, "heads": variables["params"]}

  def loss(
    self, params: Params, batch: Any, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    """Returns the loss of a batch and its parts; pure.

    Args:
      params: "encoder" and "heads".
      batch: what `tuning.Batches` gives. A row may hold several examples, apart
        by their segment_ids, as the rows of `distill` do.
      rng: random key for dropout.
    """
    below, above = jax.random.split(rng)
    states: Any = self.opened.encoder.apply(
      {"params": params["encoder"]},
      batch.batch,
      deterministic=False,
      rngs={"dropout": below},
      method="hidden_states",
    )
    parts = self.losses({"params": params["heads"]}, states, batch, above)
    total = sum(parts.values(), jnp.zeros(()))
    return total, {"loss": total, **parts}

  def evaluate(
    self, params: Params, beat: Callable[[], None]
  ) -> dict[str, float]:
    """Returns scores on dev, among them `SCORE`; beats after every batch."""
    found = self.annotate(params, self.data["dev"], beat)
    scores = self.score("dev", found)
    return {
      SCORE: self.quality(scores),
      **{
        f"dev/{name}": value
        for name, value in scores.items()
        if value is not None
      },
    }


def path_of(config: ConfigDict, split: str) -> pathlib.Path:
  """The file of a split."""
  return pathlib.Path(config.data[split]).expanduser()
