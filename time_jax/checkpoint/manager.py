"""Checkpoints of a run: what Orbax keeps, for how long, and what fits.

A checkpoint holds named trees of arrays (parameters apart from the rest, so
that evaluation and export read those alone) and a metadata record. Nothing
else is needed to go on: a batch and every random key are functions of (seed,
step). The teacher is never saved.
"""

import functools
import math
import pathlib
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from time_jax.checkpoint import checksums, damaged
from time_jax.checkpoint.damaged import METADATA, reason
from time_jax.core import nonfinite
from time_jax.core.errors import (
  GoneError,
  RestartableError,
  RunError,
  UserError,
  is_unseen,
  run_again,
)
from time_jax.core.storage import atomic_file, lease
from time_jax.parallel import processes
from time_jax.telemetry.history import METRIC


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, which leaves the question of preemption to the loop.

  It would ask as well, from the thread that finishes a save and with the step
  of that save. JAX takes the number of the last question for the step that the
  run is at, so a signal that came just then would be lost.
  """

  def reached_preemption(self, step: int) -> bool:
    """No: `time_jax.parallel.processes.preempted` says it."""
    del step
    return False


class Checkpoints:
  """The checkpoints of one workdir, by step. A context manager."""

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    keep_latest: int,
    keep_every: int | None,
    metric: str = METRIC,
    highest: bool = False,
  ) -> None:
    """Opens a folder to write to, and moves damaged checkpoints aside.

    All processes of a run do so together, and see the same newest one.

    Args:
      workdir: of the run; the checkpoints lie in `checkpoints/`.
      keep_latest: how many of the newest stay. The one with the best
        evaluation stays as well: it alone would make a resumed run go back.
      keep_every: checkpoints at multiples of this many steps stay for ever.
      metric: of an evaluation, by which one checkpoint is the best.
      highest: whether the best is the one with the highest.

    Raises:
      UserError: the folder cannot be used.
      RestartableError: a process sees other checkpoints than process 0.
    """
    damaged.set_aside(workdir)
    self._saving, self._since = 0, 0.0
    self.seconds = 0.0  # in which one was being written, in the background too
    self._metric = metric
    by_metric = functools.partial(_value, metric)
    policy: list[Any] = [
      policies.LatestN(keep_latest),
      policies.BestN(
        get_metric_fn=by_metric,
        reverse=not highest,
        n=1,
        keep_checkpoints_without_metrics=False,
      ),
    ]
    if keep_every:
      policy.append(policies.EveryNSteps(keep_every))
    keep = policies.AnyPreservationPolicy(policy)
    self._open(
      workdir,
      ocp.CheckpointManagerOptions(
        preservation_policy=keep,
        # Without best_fn Orbax does not write the metrics, and a resumed run
        # would delete the best checkpoint.
        best_fn=by_metric,
        best_mode="max" if highest else "min",
        # What a killed run left half-written.
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._seal,
          # Else threads wait 300 s for a folder that cannot be made.
          create_directories_asynchronously=False,
        ),
      ),
    )
    newest = max(self.steps(), default=-1)
    if newest != (agreed := processes.of_first(newest)):
      raise RestartableError(
        f"process {jax.process_index()} sees step {newest} as the newest "
        f"checkpoint in {self._folder}, process 0 step {agreed}: the storage "
        "lags behind; start the same command again."
      )
    self._sound.add(newest)

  @classmethod
  def read_only(cls, workdir: pathlib.Path) -> "Checkpoints":
    """Opens a finished or running run's checkpoints without changing them.

    Raises:
      UserError: there are none.
    """
    if not (workdir / "checkpoints").is_dir():
      raise UserError(
        f"no checkpoints in {workdir}; expected the --workdir of a run of "
        "`time_jax distill`."
      )
    checkpoints = cls.__new__(cls)
    options = ocp.CheckpointManagerOptions(
      read_only=True, create=False, save_interval_steps=0
    )
    while True:
      known = checksums.step_folders(workdir)
      try:
        checkpoints._open(workdir, options)
        return checkpoints
      except UserError:
        # Orbax reads something of all: a running run may delete one meanwhile.
        if not checksums.is_going(known):
          raise

  def _open(
    self, workdir: pathlib.Path, options: ocp.CheckpointManagerOptions
  ) -> None:
    self._folder = (workdir / "checkpoints").absolute()
    self._sound: set[int] = set()  # Steps of which every byte was looked at.
    try:
      self._manager = _Manager(self._folder, options=options)
    except (OSError, ValueError) as error:
      found = [
        (f, checksums.damage(f)) for f in checksums.step_folders(workdir)
      ]
      damaged = [f"{folder} is damaged: {why}" for folder, why in found if why]
      advice = f" {damaged[0]}; move that folder away." if damaged else ""
      raise UserError(
        f"the checkpoints in {self._folder} cannot be opened: "
        f"{reason(error)}{advice}"
      ) from error

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: type | None, *exception: object) -> None:
    # A save still under way is finished here; its error is raised, unless it
    # would hide another.
    try:
      self._manager.close()
    except (OSError, ValueError) as error:
      if kind is None:
        raise self._cannot_write(error) from error

  def steps(self) -> list[int]:
    """Steps of the finished checkpoints, in order."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    trees: Mapping[str, Any],
    metadata: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    *,
    wait: bool = False,
  ) -> None:
    """Starts to save; the run goes on while the files are written.

    Args:
      step: nothing happens if it was saved before.
      trees: names -> pytrees of arrays.
      metadata: JSON.
      metrics: of an evaluation at this step, if there was one.
      wait: return only when the checkpoint is complete on disk.

    Raises:
      RunError: this or the save before it failed, for want of space say; or
        what is to be saved is not finite.
    """
    if step in self._manager.all_steps():
      return
    if not nonfinite.all_finite(trees):
      raise RunError(
        f"the state after step {step} holds NaN or infinity and is not saved. "
        f"{self.last_sound()} Lower train.peak_lr, or look for damaged text or "
        "weights."
      )
    items: dict[str, Any] = {
      name: ocp.args.StandardSave(tree) for name, tree in trees.items()
    }
    items[METADATA] = ocp.args.JsonSave(atomic_file.without_nan(metadata))
    if metrics and not math.isfinite(metrics[self._metric]):
      metrics = None
    try:
      self._manager.wait_until_finished()  # As it would by itself.
      lease.check()
      self._saving, self._since = step, time.monotonic()
      self._manager.save(
        step, args=ocp.args.Composite(**items), metrics=metrics, force=True
      )
      if wait:
        self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except (OSError, ValueError) as error:
      raise self._cannot_write(error) from error

  def last_sound(self) -> str:
    """Says which checkpoint a run can go on from, once all are on disk.

    Every checkpoint was finite when it was saved, or when it was restored.
    """
    try:
      self._manager.wait_until_finished()
    except (OSError, ValueError) as error:
      raise self._cannot_write(error) from error
    steps = self.steps()
    if not steps:
      return "No checkpoint has been saved yet."
    return f"The checkpoint of step {steps[-1]} is sound."

  def add_scores(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds what an evaluation found that came after the save.

    Without it the best checkpoint could be deleted. All processes call this.

    Args:
      step: of the checkpoint; nothing happens if there is none, or if it has
        scores.
      metrics: of an evaluation at this step.

    Raises:
      RunError: they cannot be written, for want of space say.
    """
    finite = math.isfinite(metrics[self._metric])
    if step not in self.steps() or not finite:
      return
    folder = self._folder / str(step)
    file = folder / checksums.METRICS / checksums.METRICS  # As Orbax calls it.
    try:
      # Sealed already: another content would look like damage.
      if processes.of_first(file.exists()):
        return
      if jax.process_index() == 0:
        lease.check()
        file.parent.mkdir(exist_ok=True)
        atomic_file.write_json(file, dict(metrics))
        if checksums.is_sealed(folder):
          checksums.add(folder, file)
      processes.of_first(step)  # Now it is there for all.
      self._manager.reload()
    except OSError as error:
      raise self._cannot_write(error) from error

  def restore(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Reads trees into the shardings of `abstract`, on any mesh.

    Args:
      step: one of `steps`.
      abstract: names -> trees of ShapeDtypeStruct with shardings; only these
        are read.

    Raises:
      UserError: they cannot be read, or are not finite.
    """
    self._check(step, abstract)
    items = {n: ocp.args.StandardRestore(tree) for n, tree in abstract.items()}
    try:
      found = self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax raises a bare one for a damaged array.
      raise self._cannot_read(step, error) from error
    trees = {name: found[name] for name in abstract}
    if not nonfinite.all_finite(trees):  # Earlier versions saved such, too.
      raise self._cannot_read(step, ValueError("it holds NaN or infinity"))
    return trees

  def student(self, step: int, abstract: Any) -> Any:
    """Reads a student's parameters: their average, where the run keeps one.

    Args:
      step: one of `steps`.
      abstract: a tree of ShapeDtypeStruct with shardings.
    """
    self._check(step, ("params", "ema"))
    name = self.student_item(step)
    return self.restore(step, {name: abstract})[name]

  def student_item(self, step: int) -> str:
    """Name of the item that `student` reads."""
    folder = self.folder(step)
    # The seal knows of one that is being deleted just now.
    averaged = (folder / "ema").is_dir() or checksums.of_item(folder, "ema")
    return "ema" if averaged else "params"

  def positions(self, step: int) -> int:
    """Rows of the student's position table, as the checkpoint has it."""
    self._check(step, ("params", "ema"))
    place = self.folder(step) / self.student_item(step)
    try:
      with ocp.PyTreeCheckpointer() as reader:
        tree: Any = reader.metadata(place).item_metadata.tree
      return tree["embeddings"]["position"]["embedding"].shape[0]
    except Exception as error:  # Orbax raises a bare one, see `restore`.
      raise self._cannot_read(step, error) from error

  def folder(self, step: int) -> pathlib.Path:
    """Where the checkpoint of a step lies."""
    return self._folder / str(step)

  def metadata(self, step: int) -> dict[str, Any]:
    """The metadata saved with a step."""
    self._check(step, [METADATA])
    items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
    try:
      return self._manager.restore(step, args=items)[METADATA]
    except (OSError, ValueError, KeyError) as error:
      raise self._cannot_read(step, error) from error

  def _seal(self) -> None:
    """Seals the checkpoint being saved, in the thread that saves it."""
    lease.check()
    self.seconds += time.monotonic() - self._since
    # Object stores have no temporary folder.
    for name in (f"{self._saving}.orbax-checkpoint-tmp", str(self._saving)):
      if (folder := self._folder / name).is_dir():
        checksums.write(folder)
        return

  def _check(self, step: int, items: Collection[str]) -> None:
    """UserError where what is to be read is not what was written."""
    folder = self._folder / str(step)
    unseen = step not in self._sound and checksums.is_sealed(folder)
    if unseen and (why := checksums.damage(folder, items)):
      raise self._cannot_read(step, ValueError(why))

  def _cannot_write(self, error: Exception) -> RunError:
    lease.check()  # Who took it over deletes what is unfinished.
    return RunError(
      f"cannot write a checkpoint to {self._folder}: {reason(error)} Earlier "
      f"checkpoints are untouched; {run_again(error)}."
    )

  def _cannot_read(self, step: int, error: Exception) -> UserError:
    if step in self.steps() and checksums.is_going([self.folder(step)]):
      return GoneError(
        f"the checkpoint {self.folder(step)} was deleted while it was read: a "
        "run keeps only some. Run the same command again."
      )
    why = reason(error.__cause__ or error)
    # Nothing else holds the weights of an imported student.
    advice = (
      "Move that folder away to go back to the one before."
      if step
      else "It is what `time_jax import` made: import the model again, into a "
      "new --workdir."
    )
    if is_unseen(error):
      advice = f"It may be sound: {run_again(error)}."
    return UserError(
      f"the checkpoint {self.folder(step)} cannot be read: {why} {advice}"
    )


def _value(metric: str, metrics: Mapping[str, float]) -> float:
  return metrics[metric]
