"""`finetune`, whatever the task: order of operations, seeds, files, report."""

import abc
import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from time_jax import distributed, sharding, train
from time_jax.errors import EXIT_PREEMPTED
from time_jax.evals import recipe, saved, tuning, word_batches
from time_jax.evals.encoders import Opened, open_encoder
from time_jax.evals.pieces import Piece
from time_jax.evals.word_batches import Buckets, Targets, WordBatch
from time_jax.hf import files
from time_jax.models.family import Params

SPLITS = ("train", "dev", "test")
SCORES = "scores.json"
Scores = dict[str, dict[str, float]]  # split -> metric -> percent


class WordTask(abc.ABC):
  """A task that labels words, with its data and its network.

  Attributes:
    name: behind `finetune`.
    metrics: what its scorer gives, in the order of the report.
    scorer: the package that scores.
    ending: of the files with predictions.
    touch: method of the heads that touches all their parameters.
    config: the recipe.
    data: split -> sentences.
    opened: the encoder.
    heads: the network above it.
    buckets: the shapes of batches.
    pieces: of the training file.
    targets: of each piece.
  """

  name: ClassVar[str]
  metrics: ClassVar[tuple[str, ...]]
  scorer: ClassVar[str]
  ending: ClassVar[str]
  touch: ClassVar[str] = "__call__"
  config: ConfigDict
  data: Mapping[str, Sequence[Any]]
  opened: Opened
  heads: nn.Module
  buckets: Buckets
  pieces: Sequence[Piece]
  targets: Sequence[Targets]

  @abc.abstractmethod
  def __init__(
    self,
    config: ConfigDict,
    data: Mapping[str, Sequence[Any]],
    opened: Opened,
    mesh: Mesh,
  ) -> None:
    """Learns the classes of the training file and cuts it into pieces."""

  @staticmethod
  @abc.abstractmethod
  def load_libraries() -> None:
    """UserError where a package is missing that is needed later."""

  @staticmethod
  @abc.abstractmethod
  def read(path: pathlib.Path) -> list[Any]:
    """The sentences of a file."""

  @abc.abstractmethod
  def losses(
    self, variables: dict, states: Array, batch: WordBatch, rng: Array
  ) -> dict[str, Array]:
    """The parts of the loss; pure.

    Args:
      variables: of the heads, as `apply` takes them.
      states: hidden states of the encoder, [L B T D].
      batch: with targets.
      rng: for dropout.
    """

  @abc.abstractmethod
  def annotate(self, params: Params, sentences: Sequence[Any]) -> list[Any]:
    """The sentences with predicted labels."""

  @abc.abstractmethod
  def score(self, split: str, found: Sequence[Any]) -> dict[str, float]:
    """The metrics of predicted sentences, in percent."""

  @abc.abstractmethod
  def quality(self, scores: Mapping[str, float]) -> float:
    """What the best epoch is chosen by; higher is better."""

  @abc.abstractmethod
  def to_text(self, found: Sequence[Any]) -> str:
    """Sentences as their file has them."""

  @abc.abstractmethod
  def record(self) -> dict[str, Any]:
    """Heads and classes, for task.json."""

  def fresh(self, rng: Array) -> Params:
    """See `tuning.Task`."""
    encoder, heads = jax.random.split(rng)
    params = self.opened.fresh(encoder)
    batch = word_batches.fill([], [], 1, 1, 0)
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
    self, params: Params, batch: WordBatch, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    """See `tuning.Task`."""
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

  def evaluate(self, params: Params) -> dict[str, float]:
    """See `tuning.Task`."""
    scores = self.score("dev", self.annotate(params, self.data["dev"]))
    return {
      tuning.SCORE: self.quality(scores),
      **{f"dev/{name}": value for name, value in scores.items()},
    }


def finetune(
  config: ConfigDict, workdir: pathlib.Path, kind: type[WordTask]
) -> int:
  """Trains the model of a task once for every seed, and scores it.

  Goes on where an earlier run of the same command was cut off.

  Args:
    config: see `recipe`.
    workdir: gets a folder for every seed, and the scores of all.
    kind: of task.

  Returns:
    The exit code: 0 when done, EXIT_PREEMPTED when told to stop early.

  Raises:
    UserError: bad input, or a workdir that belongs to another run.
  """
  recipe.check_recipe(config)
  kind.load_libraries()
  train.prepare_workdir(workdir)
  data = {
    split: kind.read(path_of(config, split))
    for split in SPLITS
    if config.data[split]
  }
  distributed.initialize()
  train.use_compilation_cache()
  mesh = sharding.make_mesh(**config.mesh.to_dict())
  opened = open_encoder(
    config.model,
    mesh=mesh,
    dtype=config.train.dtype,
    step=None if config.step < 0 else config.step,
    random=config.init == "random",
    dropout=config.train.encoder_dropout,
  )
  run = _Finetuning(kind(config, data, opened, mesh), workdir, mesh)
  found: dict[int, Scores] = {}
  for seed in config.seeds:
    scores = run.of_seed(seed, asked=len(found) * run.steps_at_most)
    if scores is None:
      return EXIT_PREEMPTED
    found[seed] = scores
  if jax.process_index() == 0:
    _report(config, workdir, kind, found)
  return 0


def path_of(config: ConfigDict, split: str) -> pathlib.Path:
  """The file of a split."""
  return pathlib.Path(config.data[split]).expanduser()


class _Finetuning:
  """What the runs of all seeds share."""

  def __init__(self, task: WordTask, workdir: pathlib.Path, mesh: Mesh) -> None:
    self._task, self._workdir, self._mesh = task, workdir, mesh
    self._record = _record(task.config, task.opened)

  @property
  def steps_at_most(self) -> int:
    """Of one seed."""
    return self._batches(0).steps * self._task.config.train.epochs

  def of_seed(self, seed: int, asked: int) -> Scores | None:
    """Trains, chooses, predicts, scores; None: stopped, to go on later.

    Args:
      seed: of the run.
      asked: steps of earlier seeds.
    """
    workdir = self._workdir / f"seed-{seed}"
    record = {**self._record, "seed": seed}
    if (workdir / SCORES).exists():
      done = files.read_json(workdir / SCORES)
      tuning.check_same(done["run"], record, workdir)
      return done["scores"]
    train.prepare_workdir(workdir)
    run = tuning.Run(
      task=self._task,
      recipe=_recipe(self._task.config, seed),
      batches=self._batches(seed),
      mesh=self._mesh,
      workdir=workdir,
      record=record,
      encoder=self._task.opened.params,
      asked=asked,
    )
    tuned = run.tune()
    if tuned is None:
      return None
    params, history = tuned
    return self._finish(workdir, record, params, history)

  def _batches(self, seed: int) -> word_batches.Epochs:
    task = self._task
    return word_batches.Epochs(
      task.pieces, task.targets, task.buckets, task.opened.words.pad_id, seed
    )

  def _finish(
    self,
    workdir: pathlib.Path,
    record: Mapping[str, Any],
    params: Params,
    history: list[dict[str, float]],
  ) -> Scores:
    """Writes predictions, model and, last of all, the scores."""
    task, scores = self._task, {}
    for split in SPLITS[1:]:
      if split not in task.data:
        continue
      found = task.annotate(params, task.data[split])
      if jax.process_index() == 0:
        path = workdir / f"{split}{task.ending}"
        path.write_text(task.to_text(found), encoding="utf-8")
      scores[split] = task.score(split, found)
    if jax.process_index() == 0:
      saved.write_folder(
        workdir / "model",
        task.opened,
        params,
        {
          "task": task.name,
          "lang": task.config.lang,
          **task.record(),
          "buckets": list(task.buckets.lengths),
          "scores": scores,
          "run": record,
        },
      )
      content = {
        "run": record,
        "best_epoch": tuning.best_epoch(history) + 1,
        "epochs": history,
        "scores": scores,
      }
      _write_json(workdir / SCORES, content)
    return scores


def _recipe(config: ConfigDict, seed: int) -> tuning.Recipe:
  known = {field.name for field in dataclasses.fields(tuning.Recipe)}
  values = {k: v for k, v in config.train.to_dict().items() if k in known}
  return tuning.Recipe(
    **values,
    checkpoint_every=config.checkpoint.every,
    log_every=config.log.every,
    seed=seed,
  )


def _record(config: ConfigDict, opened: Opened) -> dict[str, Any]:
  """What shapes the result, whatever the files are called."""
  settings = json.loads(config.to_json())
  for name in ("seeds", "model", "step", "lang"):
    settings.pop(name)
  for split in SPLITS:
    if settings["data"].pop(split):
      digest = files.sha256(path_of(config, split))
      settings[f"{split} file (SHA-256)"] = digest
  settings["model (SHA-256)"] = opened.fingerprint
  settings["tokenizer (SHA-256)"] = opened.words.sha256
  return settings


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  fresh = path.with_suffix(".tmp")
  fresh.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
  fresh.replace(path)


def _report(
  config: ConfigDict,
  workdir: pathlib.Path,
  kind: type[WordTask],
  found: Mapping[int, Scores],
) -> None:
  """Writes and prints the mean and spread over the seeds."""
  summary = {
    split: {
      name: _spread([scores[split][name] for scores in found.values()])
      for name in kind.metrics
    }
    for split in next(iter(found.values()))
  }
  content = {
    "task": kind.name,
    "lang": config.lang,
    "model": config.model,
    "init": config.init,
    "seeds": list(found),
    "scores": summary,
  }
  _write_json(workdir / SCORES, content)
  widths = {name: max(8, len(name) + 2) for name in kind.metrics}
  print(" " * 5 + "".join(f"{name:>{widths[name]}}" for name in kind.metrics))
  for split, metrics in summary.items():
    for what in ("mean", "std")[: 2 if len(found) > 1 else 1]:
      label = split if what == "mean" else "  +-"
      values = "".join(
        f"{metrics[name][what]:{width}.2f}" for name, width in widths.items()
      )
      print(f"{label:<5}{values}")
  print(f"Scores by {kind.scorer}, in percent: {workdir / SCORES}")
  folder = workdir / f"seed-{next(iter(found))}" / "model"
  print(f"Next: python -m time_jax predict {folder} < text > out{kind.ending}")


def _spread(values: Sequence[float]) -> dict[str, Any]:
  """Mean, and the standard deviation of a sample; 0 for a single value."""
  return {
    "mean": statistics.fmean(values),
    "std": statistics.stdev(values) if len(values) > 1 else 0.0,
    "values": list(values),
  }
