"""`finetune`, for any task: a run for each seed, its files and the report."""

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.layout import METADATA
from time_jax.config import finetune as config_finetune
from time_jax.config import warmup
from time_jax.config.students import ONE
from time_jax.core.display import aligned_table, percent
from time_jax.core.errors import EXIT_PREEMPTED, UserError
from time_jax.core.storage import atomic_file, json_file
from time_jax.core.storage.paths import Path, prepare_workdir
from time_jax.evals.common import (
  batches,
  folder_writer,
  learning_curve,
  optimization,
  split_files,
  tuning,
)
from time_jax.evals.common.encoders import open_encoder
from time_jax.evals.common.task import SPLITS, Beat, Task
from time_jax.hf import files, model_identity
from time_jax.models.family import Params
from time_jax.parallel import failures, host_collectives, processes, sharding
from time_jax.parallel.watchdog import Watchdog
from time_jax.report import per_item
from time_jax.report.results import SCHEMA, SCORES_FILE
from time_jax.run.run_record import check_processes, versions
from time_jax.step import machine

Result = dict[str, Any]  # content of the file SCORES_FILE of a seed


def finetune(
  config: ConfigDict,
  workdir: Path,
  kind: type[Task],
  typed: Collection[str] = (),
) -> int:
  """Fine-tunes a model once for every seed, and scores the results.

  It goes on where an earlier run of the same command ended.

  Args:
    config: config of the task, see `config.finetune`.
    workdir: folder that gets a folder for every seed, and the mean scores.
    kind: class of the task.
    typed: names of the fields that were given on the command line, see
      `warmup.fitting`.

  Returns:
    The exit code: 0 when done, EXIT_PREEMPTED when told to stop early.

  Raises:
    UserError: bad input, or a workdir that belongs to another run.
  """
  config_finetune.check_recipe(config)
  kind.load_libraries()
  prepare_workdir(workdir)
  locate(config)
  paths = {split: config.data[split] for split in SPLITS}
  data = {k: kind.read(Path(path)) for k, path in paths.items() if path}
  with processes.hold_workdir(workdir):
    processes.initialize()
    with failures.supervise(config.train.watchdog) as watchdog:
      return _finetune(config, workdir, kind, data, watchdog, typed)


def _finetune(
  config: ConfigDict,
  workdir: Path,
  kind: type[Task],
  data: Mapping[str, Any],
  watchdog: Watchdog,
  typed: Collection[str],
) -> int:
  """Fine-tunes in all processes together; returns the exit code."""
  host_collectives.check_shared(workdir)
  settings = _settings(config)
  # Before loading weights, which only all processes can do together.
  check_processes({ONE: {"run": settings, "versions": versions()}})
  machine.use_compilation_cache()
  mesh = sharding.make_mesh(**config.mesh.to_dict())
  opened = open_encoder(
    config.model,
    mesh=mesh,
    dtype=config.train.dtype,
    step=None if config.step < 0 else config.step,
    random=config.init == "random",
    dropout=config.train.encoder_dropout,
    allow_pickle=config.allow_pickle,
  )
  settings[model_identity.KEY] = opened.identity.value
  settings["tokenizer (SHA-256)"] = opened.tokenizer.sha256
  check_processes({ONE: {"run": settings, "versions": versions()}})
  buckets = batches.make_buckets(
    config.data.buckets,
    min(config.data.get("longest", opened.longest), opened.longest),
    mesh,
  )
  task = kind(config, data, opened, buckets, mesh)
  steps = _epochs(task, config.seeds[0]).steps
  config.train.warmup_steps = warmup.fitting(
    config.train.warmup_steps,
    config.train.epochs * steps,
    typed=typed,
    begun=_is_begun(config, workdir),
  )
  settings["train"]["warmup_steps"] = config.train.warmup_steps
  common = _record(task, settings, steps)
  results: dict[int, Result] = {}
  for seed in config.seeds:
    record, folder = {**common, "seed": seed}, workdir / f"seed-{seed}"
    result = _known_result(task, record, folder)
    result = result or _train(task, record, folder, mesh, watchdog.beat)
    if not result:
      return EXIT_PREEMPTED
    results[seed] = result
  if jax.process_index() == 0:
    _report(task, workdir, results, mesh)
  return 0


def locate(config: ConfigDict) -> None:
  """Sets the splits of a config to local files, which are fetched if needed.

  Args:
    config: config of `finetune`; its `data` is changed.

  Raises:
    UserError: there is nothing to train on or to choose by.
  """
  d = config.data
  for split in SPLITS:
    name = split_files.resolve(
      config.task, config.lang, split, d[split], d.source
    )
    d[split] = str(split_files.fetch(name)) if name else ""


def _train(
  task: Task, record: Mapping[str, Any], folder: Path, mesh: Mesh, beat: Beat
) -> Result | None:
  """Trains and scores the seed of a record, and writes what comes of it.

  Returns:
    The result; None where told to stop before the end of training.
  """
  prepare_workdir(folder)
  run = tuning.Tuning(
    task=task,
    recipe=optimization.recipe_of(task.config, record["seed"]),
    batches=_epochs(task, record["seed"]),
    mesh=mesh,
    workdir=folder,
    record=record,
    encoder=task.opened.params,
    model=task.opened.identity,
  )
  params = run.tune(beat)
  if params is None:
    return None
  best = tuning.best_epoch(run.history) + 1
  result = {
    "run": record,
    "best_epoch": best,
    "epochs": run.history,
    "seconds": run.seconds,
    **_predict(task, params, folder, beat),
  }
  params = sharding.replicate(params, mesh)  # By all processes.
  if jax.process_index() == 0:
    learning_curve.plot_learning(
      folder,
      run.history,
      best=best,
      metrics=task.metrics,
      steps=run.batches.steps,
    )
    _write(task, params, result, folder)
  return result


def _epochs(task: Task, seed: int) -> batches.Epochs:
  """Returns the batches of a seed."""
  config = task.config
  return batches.Epochs(
    task.examples,
    task.buckets,
    batch_size=config.train.batch_size,
    max_tokens=config.data.max_tokens,
    epochs=config.train.epochs,
    seed=seed,
  )


def _predict(task: Task, params: Params, folder: Path, beat: Beat) -> Result:
  """Writes predictions of dev and test; returns their scores and counts."""
  scores, by, items = {}, {}, {}
  for split in SPLITS[1:]:
    if gold := task.data.get(split):
      predicted = task.network.annotate(params, gold, beat)
      if jax.process_index() == 0:
        path = folder / f"{split}{task.ending}"
        atomic_file.write_text(path, task.to_text(predicted))
      scores[split] = task.score(gold, predicted)
      by[split] = task.breakdown(gold, predicted)
      items[split] = task.per_item(gold, predicted)
  if jax.process_index() == 0:
    per_item.write(folder, items)
  return {"scores": scores, "by": by}


def _write(task: Task, params: Params, result: Result, folder: Path) -> None:
  """Writes the model of a seed and, last of all, the result."""
  record = {
    "task": task.name,
    "lang": task.config.lang,
    **task.spec,
    "buckets": list(task.buckets.lengths),
    "encoder": task.opened.name,
    "data": {k: Path(task.config.data[k]).name for k in task.data},
    "best_epoch": result["best_epoch"],
    "scores": result["scores"],
    "run": result["run"],
  }
  folder_writer.write_folder(folder / "model", task.opened, params, record)
  atomic_file.write_json(folder / SCORES_FILE, result)


def _known_result(
  task: Task, record: Mapping[str, Any], folder: Path
) -> Result | None:
  """Returns the result of a seed; None if it is not finished.

  Process 0 reads it for all: the others might see a new file only later.

  Raises:
    UserError: in all processes, when the file is damaged or of another run.
  """
  path = folder / SCORES_FILE

  def read() -> str:
    if not path.exists():
      return ""
    result = json_file.read_json(path)
    if lacking := {"run", "scores", "seconds"} - set(result):
      raise UserError(
        f"{path} lacks {', '.join(sorted(lacking))}; delete it to finish this "
        "seed again."
      )
    return json.dumps(result)

  text = host_collectives.run_on_first(read)
  if not text:
    return None
  result = json.loads(text)
  identity = task.opened.identity
  before = model_identity.upgrade_record(result["run"], identity, folder)
  tuning.check_same(before, record, folder)
  return result


def _settings(config: ConfigDict) -> dict[str, Any]:
  """Returns the config as all processes must have it.

  Hashes of files stand for their paths, which may differ between hosts. The
  splits are those that `locate` has set.
  """
  settings = json.loads(config.to_json())
  settings.pop("model")
  settings["data"].pop("source")
  for split in SPLITS:
    if path := settings["data"].pop(split):
      settings[f"{split} file (SHA-256)"] = files.sha256(Path(path))
  return settings


def _record(
  task: Task, settings: Mapping[str, Any], steps: int
) -> dict[str, Any]:
  """Returns what shapes the result of a seed."""
  shaping = {k: v for k, v in settings.items() if k not in task.no_matter}
  train = {k: v for k, v in settings["train"].items() if k != "watchdog"}
  order = {
    # The rows of a batch are a multiple of the number of devices.
    "steps of an epoch, by the number of devices": steps,
    # Before, every bucket had batches of its own.
    "batches": "of all examples that share rows",
  }
  return shaping | {"train": train} | order


def _is_begun(config: ConfigDict, workdir: Path) -> bool:
  """Returns whether a seed's run began with this schedule."""
  folders = [workdir / f"seed-{seed}" for seed in config.seeds]
  records = [folder / SCORES_FILE for folder in folders]
  for folder in folders:
    newest = layout.step_folders(folder)[-1:]
    records += [step / METADATA / METADATA for step in newest]
  asked = {n: config.train[n] for n in ("epochs", "warmup_steps")}

  def begun() -> str:
    return "yes" * warmup.is_recorded(records, asked)

  return bool(host_collectives.run_on_first(begun))


def _report(
  task: Task, workdir: Path, results: Mapping[int, Result], mesh: Mesh
) -> None:
  """Writes and prints the mean and the spread over the seeds."""
  config, opened = task.config, task.opened
  paths = {split: Path(config.data[split]) for split in task.data}
  scores = [result["scores"] for result in results.values()]
  summary = {
    split: {
      name: _spread([of_seed[split][name] for of_seed in scores])
      for name in task.metrics
    }
    for split in scores[0]
  }
  content = {
    "schema": SCHEMA,
    **machine.environment(dict(mesh.shape), config.train.dtype),
    "task": task.name,
    "lang": config.lang,
    "label": config.label or opened.name,
    "model": config.model,
    "init": config.init,
    "fingerprint": opened.identity.value,
    # By which earlier versions knew it, if no other model's could be the same.
    "fingerprint_before": opened.identity.known_before,
    "shape": opened.shape,
    "parameters": opened.parameters,
    "files": {
      split: {"path": str(path), "sha256": files.sha256(path)}
      for split, path in paths.items()
    },
    "seeds": list(results),
    "seconds": _spread([result["seconds"] for result in results.values()]),
    "scores": summary,
  }
  atomic_file.write_json(workdir / SCORES_FILE, content)
  lines = [["", *task.metrics]]
  for split, metrics in summary.items():
    rows = {"mean": split} | ({"std": "  +-"} if len(results) > 1 else {})
    for row, label in rows.items():
      values = (percent(metrics[name][row]) for name in task.metrics)
      lines.append([f"{label:<5}", *values])
  print(aligned_table(lines, "<>"))
  print(f"Scores by {task.scorer}, in percent: {workdir / SCORES_FILE}")
  folder = workdir / f"seed-{next(iter(results))}" / "model"
  print(f"Next: python -m time_jax predict {folder} {task.pipe}")


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
  """Returns mean and sample standard deviation, which is 0 for one value.

  Both are None where a value is undefined.
  """
  known = [value for value in values if value is not None]
  if len(known) < len(values):
    return {"mean": None, "std": None, "values": list(values)}
  return {
    "mean": statistics.fmean(known),
    "std": statistics.stdev(known) if len(known) > 1 else 0.0,
    "values": known,
  }
