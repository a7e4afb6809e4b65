"""What `finetune` trains: a task's network, data, loss and scores."""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from time_jax.evals.common.batches import Buckets, Examples, Numbers
from time_jax.evals.common.encoders import OpenedEncoder
from time_jax.evals.common.engine import Engine, JaxEngine, Work
from time_jax.evals.common.onnx_engine import Program
from time_jax.evals.common.packages import load_package
from time_jax.models import stepwise
from time_jax.models.family import Params
from time_jax.report.per_item import Ratios

SPLITS = ("train", "dev", "test")
SCORE = "dev/score"  # The best epoch has the highest.
FIRST = "outputs"  # The program that takes a batch.
Beat = Callable[[], None]  # called after every batch, for the watchdog


@dataclasses.dataclass(frozen=True)
class Network(abc.ABC):
  """An encoder with a task's heads, all but their parameters.

  An *item* is what the task's files hold: a sentence, or a question.

  Attributes:
    spec: its classes and sizes, as `Task.learn` gives and task.json has them.
    opened: the encoder and its tokenizer.
    buckets: the lengths of examples and rows.
    mesh: the devices.
    dropout: dropout rate of the heads.
    dtype: dtype of the heads' computation.
    touch: method of the heads that uses all their parameters.
  """

  touch: ClassVar[str] = "__call__"

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

  @property
  @abc.abstractmethod
  def blank(self) -> Any:
    """The smallest batch, of one row and without examples."""

  @property
  @abc.abstractmethod
  def programs(self) -> Mapping[str, Callable[..., Any]]:
    """What an engine computes, by name: (params, *inputs) -> outputs; pure.

    `params` has "encoder", which may be unstacked, and "heads". The inputs of
    `FIRST` are a batch; outputs have its rows in front.
    """

  @abc.abstractmethod
  def graphs(self, params: Params) -> Mapping[str, Program]:
    """Returns `programs` as ONNX graphs, where the encoder is a BERT.

    Args:
      params: parameters of the network.

    Raises:
      UserError: onnx is not installed.
    """

  @abc.abstractmethod
  def prepare(self, items: Sequence[Any]) -> Work:
    """Returns the batches of items, without JAX: another thread may call it.

    Args:
      items: items, annotated or not.
    """

  @abc.abstractmethod
  def finish(self, engine: Engine, work: Work, beat: Beat) -> list[Any]:
    """Returns the items with what is predicted for them.

    Args:
      engine: computes the programs.
      work: what `prepare` has made of the items.
      beat: called after every batch.
    """

  def annotate(
    self, params: Params, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[Any]:
    """Returns the items with what JAX predicts for them.

    Args:
      params: "encoder", which may be unstacked, and "heads".
      items: items, annotated or not.
      beat: called after every batch.
    """
    return self.finish(self.engine(params), self.prepare(items), beat)

  def engine(self, params: Params) -> Engine:
    """Returns the engine that computes with JAX on the mesh."""
    return JaxEngine(self.compiled, params, self.mesh)

  def fresh_heads(self, rng: Array) -> Params:
    """Returns random parameters of the heads, boxed."""
    batch, config = self.blank, self.opened.config
    shape = config.num_layers + 1, *batch.batch.tokens.shape, config.hidden_size
    return self.heads.init(rng, jnp.zeros(shape), batch, method=self.touch)[
      "params"
    ]

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
  def compiled(self) -> dict[str, Callable[..., Any]]:
    """Compiles `programs` for every shape."""
    return {
      name: jax.jit(program, out_shardings=self.layout(name))
      for name, program in self.programs.items()
    }

  def layout(self, program: str) -> Any:
    """Returns the shardings of outputs: all processes get all rows of them."""
    del program
    return NamedSharding(self.mesh, P())

  def predict(
    self, engine: Engine, work: Work, beat: Beat
  ) -> Iterator[tuple[Sequence[Numbers], Any]]:
    """Yields what a network of one program gives for each batch.

    The engine computes a batch while the one before is used.

    Args:
      engine: computes the program.
      work: the batches.
      beat: called after every batch.

    Yields:
      The numbers of the examples by row, and the outputs on the host.
    """
    started: list[tuple[Sequence[Numbers], Any]] = []
    for rows, host in work.batches:
      started.append((rows, engine.start(FIRST, host)))
      if len(started) > 1:
        before, outputs = started.pop(0)
        yield before, jax.device_get(outputs)
        beat()
    for before, outputs in started:
      yield before, jax.device_get(outputs)
      beat()


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
    no_matter: fields of the recipe that do not change the result of a seed.
    config: the recipe.
    data: split -> items.
    opened: the encoder.
    buckets: the lengths of examples and rows.
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

  @abc.abstractmethod
  def per_item(
    self, gold: Sequence[Any], predicted: Sequence[Any]
  ) -> dict[str, Ratios]:
    """Returns what each item adds to the metrics of `score` that are ratios."""

  def breakdown(
    self, gold: Sequence[Any], predicted: Sequence[Any]
  ) -> dict[str, Any]:
    """Returns the counts behind the metrics of `score`, for `report --by`."""
    del gold, predicted
    return {}

  def fresh(self, rng: Array) -> Params:
    """Returns random parameters, "encoder" and "heads", boxed."""
    for_encoder, for_heads = jax.random.split(rng)
    return {
      "encoder": self.opened.fresh(for_encoder),
      "heads": self.network.fresh_heads(for_heads),
    }

  def loss(
    self, params: Params, batch: Any, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    """Returns the loss of a batch and its parts; pure.

    Args:
      params: "encoder" and "heads".
      batch: see `batches.Examples.fill`.
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
