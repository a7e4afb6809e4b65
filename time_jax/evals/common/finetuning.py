"""`finetune`, whatever the task: order of operations, seeds, files, report."""

import json
import pathlib
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
from time_jax.core.errors import EXIT_PREEMPTED, UserError
from time_jax.core.storage import atomic_file, lease
from time_jax.core.storage.paths import prepare_workdir
from time_jax.evals.common import batches, datasets, optimization, saved, tuning
from time_jax.evals.common.encoders import open_encoder
from time_jax.evals.common.task import SPLITS, Task, path_of
from time_jax.hf import files, model_hash
from time_jax.parallel import failures, host_collectives, processes, sharding
from time_jax.parallel.watchdog import Watchdog
from time_jax.report.results import SCHEMA, SCORES
from time_jax.run import loop
from time_jax.run.run_record import check_processes, versions
from time_jax.step import machine

# Split -> metric -> percent; None: undefined.
Scores = dict[str, Mapping[str, float | None]]
Done = dict[str, Any]  # what the file SCORES of a seed says


def finetune(
  config: ConfigDict,
  workdir: pathlib.Path,
  kind: type[Task],
  typed: Collection[str] = (),
) -> int:
  """Trains the model of a task once for every seed, and scores it.

  Goes on where an earlier run of the same command was cut off.

  Args:
    config: see `recipe`.
    workdir: gets a folder for every seed, and the scores of all.
    kind: of task.
    typed: names of the fields that were given with the command; see `warmup`.

  Returns:
    The exit code: 0 when done, EXIT_PREEMPTED when told to stop early.

  Raises:
    UserError: bad input, or a workdir that belongs to another run.
  """
  config_finetune.check_recipe(config)
  kind.load_libraries()
  prepare_workdir(workdir)
  locate(config)
  data = {
    split: kind.read(path_of(config, split))
    for split in SPLITS
    if config.data[split]
  }
  with processes.hold_workdir(workdir):
    processes.initialize()
    with failures.supervise(config.train.watchdog) as watchdog:
      return _finetune(config, workdir, kind, data, watchdog, typed)


def _finetune(
  config: ConfigDict,
  workdir: pathlib.Path,
  kind: type[Task],
  data: Mapping[str, Any],
  watchdog: Watchdog,
  typed: Collection[str],
) -> int:
  """What all processes do together."""
  host_collectives.check_shared(workdir)
  settings = _settings(config)
  # Before anything is loaded that only all processes can load together.
  check_processes({"run": settings, "versions": versions()})
  loop.use_compilation_cache()
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
  settings[model_hash.MODEL] = opened.identity.value
  settings["tokenizer (SHA-256)"] = opened.words.sha256
  check_processes({"run": settings, "versions": versions()})
  buckets = batches.make_buckets(
    config.data.buckets,
    min(config.data.get("longest", opened.longest), opened.longest),
    config.train.batch_size,
    config.data.max_tokens,
    mesh,
  )
  task = kind(config, data, opened, buckets, mesh)
  run = _Finetuning(task, settings, workdir, mesh, watchdog, typed)
  found: dict[int, Done] = {}
  for seed in config.seeds:
    done = run.of_seed(seed)
    if done is None:
      return EXIT_PREEMPTED
    found[seed] = done
  if jax.process_index() == 0:
    _report(task, workdir, found, mesh)
  return 0


def locate(config: ConfigDict) -> None:
  """Puts local files where splits are empty or lie elsewhere.

  Raises:
    UserError: there is nothing to train on or to choose by.
  """
  d = config.data
  for split in SPLITS:
    name = datasets.named(config.task, config.lang, split, d[split], d.source)
    d[split] = str(datasets.fetch(name)) if name else ""


class _Finetuning:
  """What the runs of all seeds share."""

  def __init__(
    self,
    task: Task,
    settings: Mapping[str, Any],
    workdir: pathlib.Path,
    mesh: Mesh,
    watchdog: Watchdog,
    typed: Collection[str],
  ) -> None:
    self._task, self._workdir, self._mesh = task, workdir, mesh
    self._watchdog = watchdog
    steps, train = self._batches(task.config.seeds[0]).steps, task.config.train
    begun = _is_begun(task.config, workdir)
    train.warmup_steps = warmup.fitting(
      train.warmup_steps, train.epochs * steps, typed=typed, begun=begun
    )
    settings["train"]["warmup_steps"] = train.warmup_steps
    self._record = _record(task, settings, steps)

  def of_seed(self, seed: int) -> Done | None:
    """Trains, chooses, predicts, scores; None: stopped, to go on later.

    Args:
      seed: of the run.
    """
    workdir = self._workdir / f"seed-{seed}"
    record = {**self._record, "seed": seed}
    if done := _read_done(workdir / SCORES):
      before = model_hash.recognised(
        done["run"], self._task.opened.identity, workdir
      )
      tuning.check_same(before, record, workdir)
      return done
    prepare_workdir(workdir)
    run = tuning.Run(
      task=self._task,
      recipe=optimization.recipe_of(self._task.config, seed),
      batches=self._batches(seed),
      mesh=self._mesh,
      workdir=workdir,
      record=record,
      encoder=self._task.opened.params,
      model=self._task.opened.identity,
      beat=self._watchdog.beat,
    )
    tuned = run.tune()
    if tuned is None:
      return None
    return self._finish(workdir, record, tuned)

  def _batches(self, seed: int) -> batches.Epochs:
    return batches.Epochs(self._task.examples, self._task.buckets, seed)

  def _finish(
    self,
    workdir: pathlib.Path,
    record: Mapping[str, Any],
    tuned: tuning.Tuned,
  ) -> Done:
    """Writes predictions, model and, last of all, the scores."""
    task, params = self._task, tuned.params
    scores: Scores = {}
    by: dict[str, Any] = {}
    for split in SPLITS[1:]:
      if split not in task.data:
        continue
      found = task.annotate(params, task.data[split], self._watchdog.beat)
      if jax.process_index() == 0:
        lease.check()
        path = workdir / f"{split}{task.ending}"
        path.write_text(task.to_text(found), encoding="utf-8")
      scores[split] = task.score(split, found)
      by[split] = task.breakdown(split, found)
    done = {
      "run": record,
      "best_epoch": tuning.best_epoch(tuned.history) + 1,
      "epochs": tuned.history,
      "seconds": tuned.seconds,
      "scores": scores,
      "by": by,
    }
    whole = sharding.replicate(params, self._mesh)  # All have a part in it.
    if jax.process_index() == 0:
      saved.write_folder(
        workdir / "model",
        task.opened,
        whole,
        {
          "task": task.name,
          "lang": task.config.lang,
          **task.record(),
          "buckets": list(task.buckets.lengths),
          "scores": scores,
          "run": record,
        },
      )
      atomic_file.write_json(workdir / SCORES, done)
    return done


def _read_done(path: pathlib.Path) -> Done | None:
  """What process 0 finds of a seed that is done; None: it is not.

  The others do not ask the disk, which may show them a file later.

  Raises:
    UserError: in all of them, when the file is damaged.
  """

  def read() -> str:
    if not path.exists():
      return ""
    done = files.read_json(path)
    if lacking := {"run", "scores", "seconds"} - set(done):
      raise UserError(
        f"{path} lacks {', '.join(sorted(lacking))}; delete it to finish this "
        "seed again."
      )
    return json.dumps(done)

  text = host_collectives.run_on_first(read)
  return json.loads(text) if text else None


def _settings(config: ConfigDict) -> dict[str, Any]:
  """The recipe as all processes must have it, with hashes of its files.

  Where model and files lie may differ between hosts.
  """
  settings = json.loads(config.to_json())
  settings.pop("model")
  settings["data"].pop("source")
  for split in SPLITS:
    if settings["data"].pop(split):
      digest = files.sha256(path_of(config, split))
      settings[f"{split} file (SHA-256)"] = digest
  return settings


def _record(
  task: Task, settings: Mapping[str, Any], steps: int
) -> dict[str, Any]:
  """What shapes the result of a seed, whatever the files are called."""
  shaping = {k: v for k, v in settings.items() if k not in task.no_matter}
  shaping["train"] = {
    name: value
    for name, value in settings["train"].items()
    if name != "watchdog"
  }
  # Rows of a batch are a multiple of what the devices share.
  shaping["steps of an epoch, by the number of devices"] = steps
  return shaping


def _is_begun(config: ConfigDict, workdir: pathlib.Path) -> bool:
  """Whether the run of a seed is there that has this schedule already."""
  folders = [workdir / f"seed-{seed}" for seed in config.seeds]
  records = [folder / SCORES for folder in folders]
  for folder in folders:
    newest = layout.step_folders(folder)[-1:]
    records += [step / METADATA / METADATA for step in newest]
  asked = {n: config.train[n] for n in ("epochs", "warmup_steps")}
  found = host_collectives.run_on_first(
    lambda: "yes" * warmup.is_recorded(records, asked)
  )
  return bool(found)


def _report(
  task: Task, workdir: pathlib.Path, found: Mapping[int, Done], mesh: Mesh
) -> None:
  """Writes and prints the mean and spread over the seeds."""
  config, opened = task.config, task.opened
  scores = [done["scores"] for done in found.values()]
  summary = {
    split: {
      name: _spread([one[split][name] for one in scores])
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
    "fingerprint_before": (
      opened.identity.before if opened.identity.proves else ""
    ),
    "shape": opened.shape,
    "parameters": opened.parameters,
    "files": {
      split: {
        "path": config.data[split],
        "sha256": files.sha256(path_of(config, split)),
      }
      for split in task.data
    },
    "seeds": list(found),
    "seconds": _spread([done["seconds"] for done in found.values()]),
    "scores": summary,
  }
  atomic_file.write_json(workdir / SCORES, content)
  shown = [_percent(m[name]["mean"]) for m in summary.values() for name in m]
  least = max(8, *(len(text) + 2 for text in shown))
  widths = {name: max(least, len(name) + 2) for name in task.metrics}
  print(" " * 5 + "".join(f"{name:>{widths[name]}}" for name in task.metrics))
  for split, metrics in summary.items():
    for what in ("mean", "std")[: 2 if len(found) > 1 else 1]:
      label = split if what == "mean" else "  +-"
      values = "".join(
        f"{_percent(metrics[name][what]):>{width}}"
        for name, width in widths.items()
      )
      print(f"{label:<5}{values}")
  print(f"Scores by {task.scorer}, in percent: {workdir / SCORES}")
  folder = workdir / f"seed-{next(iter(found))}" / "model"
  print(f"Next: python -m time_jax predict {folder} {task.pipe}")


def _percent(value: float | None) -> str:
  return "undefined" if value is None else f"{value:.2f}"


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
  """Mean, and the standard deviation of a sample; 0 for a single value.

  None, where a value is undefined.
  """
  known = [value for value in values if value is not None]
  if len(known) < len(values):
    return {"mean": None, "std": None, "values": list(values)}
  return {
    "mean": statistics.fmean(known),
    "std": statistics.stdev(known) if len(known) > 1 else 0.0,
    "values": known,
  }
