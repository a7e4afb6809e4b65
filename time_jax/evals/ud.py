"""`finetune ud`: order of operations only."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from time_jax import distributed, sharding, train
from time_jax.errors import EXIT_PREEMPTED
from time_jax.evals import (
  conllu,
  recipe,
  saved,
  tuning,
  ud_labels,
  ud_scores,
  word_batches,
)
from time_jax.evals.conllu import Sentence
from time_jax.evals.encoders import Opened, open_encoder
from time_jax.evals.pieces import Cutter
from time_jax.evals.trees import load_library
from time_jax.evals.ud_annotator import Annotator, piece_targets
from time_jax.evals.ud_model import Heads, losses
from time_jax.evals.word_batches import WordBatch
from time_jax.hf import files
from time_jax.models.family import Params

SPLITS = ("train", "dev", "test")
SCORES = "scores.json"
Scores = dict[str, dict[str, float]]  # split -> metric -> percent


def finetune_ud(config: ConfigDict, workdir: pathlib.Path) -> int:
  """Trains the joint model once for every seed, and scores it.

  Goes on where an earlier run of the same command was cut off.

  Args:
    config: see `recipe.ud_config`.
    workdir: gets a folder for every seed, and the scores of all.

  Returns:
    The exit code: 0 when done, EXIT_PREEMPTED when told to stop early.

  Raises:
    UserError: bad input, or a workdir that belongs to another run.
  """
  recipe.check_recipe(config)
  load_library()
  ud_scores.load_scorer()
  train.prepare_workdir(workdir)
  treebank = {
    split: conllu.read(pathlib.Path(config.data[split]).expanduser())
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
  run = _Finetuning(config, workdir, treebank, opened, mesh)
  found: dict[int, Scores] = {}
  for seed in config.seeds:
    scores = run.of_seed(seed, asked=len(found) * run.steps_at_most)
    if scores is None:
      return EXIT_PREEMPTED
    found[seed] = scores
  if jax.process_index() == 0:
    _report(config, workdir, found)
  return 0


class _Finetuning:
  """What the runs of all seeds share."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: pathlib.Path,
    treebank: Mapping[str, Sequence[Sentence]],
    opened: Opened,
    mesh: Mesh,
  ) -> None:
    self._config, self._workdir, self._mesh = config, workdir, mesh
    self._opened, self._treebank = opened, treebank
    vocabulary = ud_labels.learn(treebank["train"])
    for split in SPLITS[1:]:
      if split in treebank and jax.process_index() == 0:
        ud_labels.note_unknown(treebank[split], vocabulary)
    self._annotator = make_annotator(
      opened,
      vocabulary,
      config.heads.to_dict(),
      buckets=config.data.buckets,
      rows=config.train.batch_size,
      max_tokens=config.data.max_tokens,
      mesh=mesh,
      dropout=config.train.dropout,
      dtype=config.train.dtype,
    )
    forms = [sentence.column("FORM") for sentence in treebank["train"]]
    self._pieces = self._annotator.cutter.pieces(forms)
    self._targets = piece_targets(self._pieces, treebank["train"], vocabulary)
    self._record = _record(config, opened)

  @property
  def steps_at_most(self) -> int:
    """Of one seed."""
    return self._batches(0).steps * self._config.train.epochs

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
      task=_Task(self._config, self._annotator, self._opened, self._treebank),
      recipe=_recipe(self._config, seed),
      batches=self._batches(seed),
      mesh=self._mesh,
      workdir=workdir,
      record=record,
      encoder=self._opened.params,
      asked=asked,
    )
    tuned = run.tune()
    if tuned is None:
      return None
    params, history = tuned
    return self._finish(workdir, record, params, history)

  def _batches(self, seed: int) -> word_batches.Epochs:
    return word_batches.Epochs(
      self._pieces,
      self._targets,
      self._annotator.buckets,
      self._annotator.pad_id,
      seed,
    )

  def _finish(
    self,
    workdir: pathlib.Path,
    record: Mapping[str, Any],
    params: Params,
    history: list[dict[str, float]],
  ) -> Scores:
    """Writes predictions, model and, last of all, the scores."""
    scores: Scores = {}
    for split in SPLITS[1:]:
      if split not in self._treebank:
        continue
      found = self._annotator.annotate(params, self._treebank[split])
      if jax.process_index() == 0:
        text = conllu.to_text(found)
        (workdir / f"{split}.conllu").write_text(text, encoding="utf-8")
      scores[split] = ud_scores.score(_path(self._config, split), found)
    if jax.process_index() == 0:
      annotator = self._annotator
      saved.write_folder(
        workdir / "model",
        self._opened,
        params,
        {
          "task": "ud",
          "lang": self._config.lang,
          "heads": self._config.heads.to_dict(),
          "classes": dict(annotator.vocabulary),
          "buckets": list(annotator.buckets.lengths),
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


def make_annotator(
  opened: Opened,
  vocabulary: ud_labels.Vocabulary,
  widths: Mapping[str, int],
  *,
  buckets: Sequence[int],
  rows: int,
  max_tokens: int,
  mesh: Mesh,
  dropout: float = 0.0,
  dtype: Any = "float32",
) -> Annotator:
  """The model for an encoder, without parameters.

  Args:
    opened: the encoder.
    vocabulary: the classes of every column.
    widths: hidden, arc and relation.
    buckets: see `word_batches.make_buckets`, as the three behind it.
    rows: of a batch.
    max_tokens: of a batch.
    mesh: the devices.
    dropout: above the encoder.
    dtype: of computation.
  """
  sizes = {name: len(names) for name, names in vocabulary.items() if names}
  return Annotator(
    encoder=opened.encoder,
    heads=Heads(
      classes=tuple(sizes.items()),
      dropout=dropout,
      dtype=jnp.dtype(dtype),
      hidden=widths["hidden"],
      arc=widths["arc"],
      relation=widths["relation"],
    ),
    vocabulary=vocabulary,
    cutter=Cutter(opened.words, opened.longest),
    buckets=word_batches.make_buckets(
      buckets, opened.longest, rows, max_tokens, sharding.batch_ways(mesh)
    ),
    pad_id=opened.words.pad_id,
    mesh=mesh,
  )


@dataclasses.dataclass(frozen=True)
class _Task:
  """See `tuning.Task`."""

  config: ConfigDict
  annotator: Annotator
  opened: Opened
  treebank: Mapping[str, Sequence[Sentence]]

  def fresh(self, rng: Array) -> Params:
    encoder, heads = jax.random.split(rng)
    params = self.opened.fresh(encoder)
    batch = word_batches.fill([], [], 1, 1, 0)
    states = jax.eval_shape(
      lambda: self.opened.encoder.apply(
        {"params": params}, batch.batch, method="hidden_states"
      )
    )
    variables = self.annotator.heads.init(
      heads, jnp.zeros(states.shape), batch, method="everything"
    )
    return {"encoder": params, "heads": variables["params"]}

  def loss(
    self, params: Params, batch: WordBatch, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    below, above = jax.random.split(rng)
    states = self.opened.encoder.apply(
      {"params": params["encoder"]},
      batch.batch,
      deterministic=False,
      rngs={"dropout": below},
      method="hidden_states",
    )
    model, variables = self.annotator.heads, {"params": params["heads"]}
    output: Any = model.apply(
      variables, states, batch, deterministic=False, rngs={"dropout": above}
    )
    parts = losses(
      model, variables, output, batch, self.config.train.label_smoothing
    )
    total = sum(parts.values(), jnp.zeros(()))
    return total, {"loss": total, **parts}

  def evaluate(self, params: Params) -> dict[str, float]:
    found = self.annotator.annotate(params, self.treebank["dev"])
    scores = ud_scores.score(_path(self.config, "dev"), found)
    return {
      tuning.SCORE: scores["MLAS"] + scores["BLEX"],
      **{f"dev/{name}": value for name, value in scores.items()},
    }


def _path(config: ConfigDict, split: str) -> pathlib.Path:
  return pathlib.Path(config.data[split]).expanduser()


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
    path = settings["data"].pop(split)
    if path:
      digest = files.sha256(pathlib.Path(path).expanduser())
      settings[f"{split} file (SHA-256)"] = digest
  settings["model (SHA-256)"] = opened.fingerprint
  settings["tokenizer (SHA-256)"] = opened.words.sha256
  return settings


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  fresh = path.with_suffix(".tmp")
  fresh.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
  fresh.replace(path)


def _report(
  config: ConfigDict, workdir: pathlib.Path, found: Mapping[int, Scores]
) -> None:
  """Writes and prints the mean and spread over the seeds."""
  summary = {
    split: {
      name: _spread([scores[split][name] for scores in found.values()])
      for name in ud_scores.METRICS
    }
    for split in next(iter(found.values()))
  }
  content = {
    "task": "ud",
    "lang": config.lang,
    "model": config.model,
    "init": config.init,
    "seeds": list(found),
    "scores": summary,
  }
  _write_json(workdir / SCORES, content)
  print(" " * 5 + "".join(f"{name:>8}" for name in ud_scores.METRICS))
  for split, metrics in summary.items():
    for what in ("mean", "std")[: 2 if len(found) > 1 else 1]:
      label = split if what == "mean" else "  +-"
      values = "".join(f"{metrics[m][what]:8.2f}" for m in ud_scores.METRICS)
      print(f"{label:<5}{values}")
  print(f"Scores by udtools, in percent: {workdir / SCORES}")
  folder = workdir / f"seed-{next(iter(found))}" / "model"
  print(f"Next: python -m time_jax predict {folder} < text > out.conllu")


def _spread(values: Sequence[float]) -> dict[str, Any]:
  """Mean, and the standard deviation of a sample; 0 for a single value."""
  return {
    "mean": statistics.fmean(values),
    "std": statistics.stdev(values) if len(values) > 1 else 0.0,
    "values": list(values),
  }
