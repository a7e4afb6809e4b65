"""What `finetune` trains: a task's network, data, loss and scores."""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from time_jax.evals.common import batches
from time_jax.evals.common.batches import Buckets, Examples
from time_jax.evals.common.encoders import OpenedEncoder
from time_jax.evals.common.packages import load_package
from time_jax.models import stepwise
from time_jax.models.family import Params
from time_jax.parallel import sharding

SPLITS = ("train", "dev", "test")
SCORE = "dev/score"  # The best epoch has the highest.
Beat = Callable[[], None]  # called after every batch, for the watchdog


@dataclasses.dataclass(frozen=True)
class Network(abc.ABC):
  """An encoder with a task's heads, all but their parameters.

  An *item* is what the task's files hold: a sentence, or a question.

  Attributes:
    spec: its classes and sizes, as `Task.learn` gives and task.json has them.
    opened: the encoder and its tokenizer.
    buckets: the shapes of batches.
    mesh: the devices.
    dropout: dropout rate of the heads.
    dtype: dtype of the heads' computation.
  """

  spec: Mapping[str, Any]
  opened: OpenedEncoder
  buckets: Buckets
  mesh: Mesh
  dropout: float = 0.0
  dtype: str = "float32"

  @property
  @abc.abstractmethod
  def heads(self) -> nn.Module:
    """The module on top: (hidden states, batch, deterministic) -> scores."""

  @abc.abstractmethod
  def outputs(self, params: Params, batch: Any) -> Any:
    """Returns what is predicted for each row of a batch; it is compiled.

    Args:
      params: "encoder", which may be unstacked, and "heads".
      batch: a batch on the devices.
    """

  @abc.abstractmethod
  def annotate(
    self, params: Params, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[Any]:
    """Returns the items with what is predicted for them.

    Args:
      params: "encoder", which may be unstacked, and "heads".
      items: items, annotated or not.
      beat: called after every batch.
    """

  def states(self, params: Params, batch: Any) -> Float[Array, "L B T D"]:
    """Returns the encoder's hidden states, without dropout."""
    own = params["encoder"]
    if isinstance(own.get("layers"), list):
      return jnp.stack(stepwise.states(self.opened.encoder, own, batch.batch))
    return self.opened.hidden_states(own, batch.batch)

  def scores(self, params: Params, batch: Any) -> Any:
    """Returns what the heads make of a batch, without dropout."""
    states = self.states(params, batch)
    return self.heads.apply({"params": params["heads"]}, states, batch)

  @functools.cached_property
  def program(self) -> Callable[..., Any]:
    """Compiles `outputs` for every shape; all processes get all rows."""
    return jax.jit(
      lambda params, batch: self.outputs(params, batch),
      out_shardings=NamedSharding(self.mesh, P()),
    )

  def run(self, params: Params, host: Any) -> Any:
    """Returns `outputs` of a host batch, on the host."""
    outputs = self.program(params, batches.place(host, self.mesh))
    return jax.tree.map(np.asarray, outputs)

  def predict(
    self, params: Params, examples: Examples, beat: Beat
  ) -> list[Any]:
    """Returns the row of `outputs` for each example, in order."""
    predicted: list[Any] = [None] * len(examples.sizes)
    with sharding.use_mesh(self.mesh):
      for chosen, host in batches.in_order(examples, self.buckets, beat):
        outputs = self.run(params, host)
        for row, i in enumerate(chosen):
          predicted[i] = jax.tree.map(lambda x, row=row: x[row], outputs)
    return predicted


class Task(abc.ABC):
  """A task with its data and its network.

  Attributes:
    name: the word after `finetune`.
    metrics: metrics of the scorer, in the order of reports.
    chosen_by: metrics whose sum chooses the best epoch.
    scorer: the scorer, as reports call it.
    ending: suffix of the files with predictions.
    pipe: input and output of `predict`, as a shell has them.
    packages: modules of optional packages that a run needs.
    network_class: the class of `network`.
    read: returns the items of a file.
    to_text: returns items as the text of a file that the scorer reads.
    touch: method of the heads that uses all their parameters.
    no_matter: fields of the recipe that do not change the result of a seed.
    config: the recipe.
    data: split -> items.
    opened: the encoder.
    buckets: the shapes of batches.
    spec: classes and sizes of the network, for task.json.
    network: the encoder with its heads.
    examples: the training file, as examples.
  """

  name: ClassVar[str]
  metrics: ClassVar[tuple[str, ...]]
  chosen_by: ClassVar[tuple[str, ...]]
  scorer: str
  ending: ClassVar[str]
  pipe: ClassVar[str]
  packages: ClassVar[tuple[str, ...]] = ()
  network_class: ClassVar[type[Network]]
  read: ClassVar[Callable[[pathlib.Path], list[Any]]]
  to_text: ClassVar[Callable[[Sequence[Any]], str]]
  touch: ClassVar[str] = "__call__"
  no_matter: ClassVar[tuple[str, ...]] = (
    *("seeds", "model", "step", "lang", "label", "allow_pickle"),
  )

  def __init__(
    self,
    config: ConfigDict,
    data: Mapping[str, Sequence[Any]],
    opened: OpenedEncoder,
    buckets: Buckets,
    mesh: Mesh,
  ) -> None:
    """Learns the classes of the training file and makes examples of it."""
    self.config, self.data = config, data
    self.opened, self.buckets = opened, buckets
    self.spec = self.learn()
    self.network: Any = self.network_class(
      self.spec, opened, buckets, mesh, config.train.dropout, config.train.dtype
    )
    self.examples = self.make_examples()

  @classmethod
  def load_libraries(cls) -> None:
    """Raises UserError if a package is missing that is needed later."""
    for module in cls.packages:
      load_package(module)

  @abc.abstractmethod
  def learn(self) -> dict[str, Any]:
    """Checks all data, and returns "heads", "classes" and what else is needed.

    Notes are printed by process 0 alone.
    """

  @abc.abstractmethod
  def make_examples(self) -> Examples:
    """Returns the examples of the training file, with targets."""

  @abc.abstractmethod
  def losses(
    self, variables: dict[str, Any], scores: Any, batch: Any
  ) -> dict[str, Array]:
    """Returns the parts of the loss; pure.

    Args:
      variables: parameters of the heads, as `apply` takes them.
      scores: what the heads return for the batch.
      batch: a batch with targets; its documents are told apart by the
        `segment_ids` of `batch.batch`.
    """

  @abc.abstractmethod
  def score(
    self, gold: Sequence[Any], predicted: Sequence[Any]
  ) -> dict[str, Any]:
    """Returns the metrics of predicted items.

    Args:
      gold: items with the right annotation.
      predicted: the same items with the predicted one.

    Returns:
      Metric -> percent, or None where it is undefined.
    """

  def breakdown(
    self, gold: Sequence[Any], predicted: Sequence[Any]
  ) -> dict[str, Any]:
    """Returns the counts behind the metrics of `score`, for `report --by`."""
    del gold, predicted
    return {}

  def fresh(self, rng: Array) -> Params:
    """Returns random parameters, "encoder" and "heads", boxed."""
    for_encoder, for_heads = jax.random.split(rng)
    params = self.opened.fresh(for_encoder)
    batch = self.examples.fill([], 1, 1)
    states = jax.eval_shape(
      lambda: self.opened.hidden_states(params, batch.batch)
    )
    variables = self.network.heads.init(
      for_heads, jnp.zeros(states.shape), batch, method=self.touch
    )
    return {"encoder": params, "heads": variables["params"]}

  def loss(
    self, params: Params, batch: Any, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    """Returns the loss of a batch and its parts; pure.

    Args:
      params: "encoder" and "heads".
      batch: see `batches.Examples.fill`. A row may hold several examples, told
        apart by their segment_ids, as the rows of `distill` do.
      rng: random key for dropout.
    """
    for_encoder, for_heads = jax.random.split(rng)
    states = self.opened.hidden_states(
      params["encoder"], batch.batch, for_encoder
    )
    variables = {"params": params["heads"]}
    scores: Any = self.network.heads.apply(
      variables, states, batch, deterministic=False, rngs={"dropout": for_heads}
    )
    parts = self.losses(variables, scores, batch)
    total = sum(parts.values(), jnp.zeros(()))
    return total, {"loss": total, **parts}

  def evaluate(self, params: Params, beat: Beat) -> dict[str, float]:
    """Returns the scores of the dev file, among them `SCORE`.

    Args:
      params: "encoder" and "heads".
      beat: called after every batch.
    """
    gold = self.data["dev"]
    scores = self.score(gold, self.network.annotate(params, gold, beat))
    known = {f"dev/{k}": v for k, v in scores.items() if v is not None}
    return {SCORE: sum(scores[name] for name in self.chosen_by), **known}
