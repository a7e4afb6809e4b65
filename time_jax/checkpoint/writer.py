"""Saving the checkpoints of a run, in the background."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from time_jax.checkpoint import checksums, layout, quarantine, retention
from time_jax.checkpoint.reader import CheckpointReader, Manager
from time_jax.core import nonfinite
from time_jax.core.errors import (
  RestartableError,
  RunError,
  first_line,
  run_again,
)
from time_jax.core.storage import atomic_file, lease
from time_jax.core.storage.paths import Path
from time_jax.parallel import host_collectives
from time_jax.telemetry.history import METRIC


class CheckpointWriter(CheckpointReader):
  """The checkpoints of a run, read and saved. A context manager.

  Attributes:
    seconds: time in which a checkpoint was being written, in the background
      too.
  """

  def __init__(
    self,
    workdir: Path,
    *,
    keep_latest: int,
    keep_every: int | None,
    metrics: Sequence[str] = (METRIC,),
    highest: bool = False,
  ) -> None:
    """Opens a folder to write to, and moves damaged checkpoints aside.

    All processes of a run do so together, and see the same newest one.

    Args:
      workdir: folder of the run; the checkpoints lie in `checkpoints/`.
      keep_latest: how many of the newest checkpoints stay, beside those with
        the best evaluation.
      keep_every: checkpoints at multiples of this many steps stay for ever.
      metrics: names of scores, by each of which one checkpoint is the best:
        that of every student.
      highest: whether the best is the one with the highest score.

    Raises:
      UserError: the folder cannot be used.
      RestartableError: a process sees other checkpoints than process 0.
    """
    self._metrics = frozenset(metrics)
    self._saving, self._since, self.seconds = 0, 0.0, 0.0
    self._options = retention.manager_options(
      keep_latest, keep_every, metrics, highest, self._finish
    )
    super().__init__(workdir)
    newest = max(self.steps(), default=-1)
    if newest != (agreed := host_collectives.broadcast(newest)):
      raise RestartableError(
        f"process {jax.process_index()} sees step {newest} as the newest "
        f"checkpoint in {self._folder}, process 0 step {agreed}: the storage "
        "lags behind; start the same command again."
      )
    self._verified.add(newest)

  def _open(self, workdir: Path) -> Manager:
    quarantine.set_damaged_aside(workdir)
    return self._open_with(self._options)

  def __exit__(self, kind: type | None, *error: object) -> None:
    # A save still under way is finished here; its error is raised, unless it
    # would hide another.
    try:
      self._manager.close()
    except (OSError, ValueError) as problem:
      if kind is None:
        raise self._cannot_write(problem) from problem

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
      step: number of the step; nothing happens if it was saved before.
      trees: names -> pytrees of arrays.
      metadata: a record, as JSON.
      metrics: scores of an evaluation at this step, if there was one.
      wait: return only when the checkpoint is complete on disk.

    Raises:
      RunError: this or the save before it failed, such as on a full disk; or
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
    record = atomic_file.without_nan(metadata)
    items[layout.METADATA] = ocp.args.JsonSave(record)
    scores = self._scores(metrics or {}) or None
    try:
      self._manager.wait_until_finished()  # As it would by itself.
      lease.check()
      self._saving, self._since = step, time.monotonic()
      self._manager.save(
        step, args=ocp.args.Composite(**items), metrics=scores, force=True
      )
      if wait:
        self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except (OSError, ValueError) as error:
      raise self._cannot_write(error) from error

  def last_sound(self) -> str:
    """Tells which checkpoint a run can go on from, once all are on disk.

    Every checkpoint was finite when it was saved, or when it was restored.

    Returns:
      A sentence for the user.

    Raises:
      RunError: the save under way fails.
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
    """Adds the scores of an evaluation that came after the save.

    Without them the best checkpoint could be deleted. All processes call this.

    Args:
      step: number of the step; nothing happens if it has no checkpoint. The
        scores that it has stay as they are.
      metrics: scores of an evaluation at this step.

    Raises:
      RunError: they cannot be written, such as on a full disk.
    """
    scores = self._scores(metrics)
    if step not in self.steps() or not scores:
      return
    folder = self.folder(step)
    file = folder / layout.METRICS / layout.METRICS  # as Orbax calls it
    try:
      known = self._manager.metrics(step) or {}
      if not host_collectives.broadcast(bool(scores.keys() - known.keys())):
        return
      if jax.process_index() == 0:
        lease.check()
        file.parent.mkdir(exist_ok=True)
        # Another content than its checksum's would look like damage.
        if sealed := checksums.exist(folder):
          checksums.drop(folder, file)
        atomic_file.write_json(file, scores | known)
        if sealed:
          checksums.add(folder, file)
      host_collectives.broadcast(step)  # Now the others see the file.
      self._manager.reload()
    except OSError as error:
      raise self._cannot_write(error) from error

  def _scores(self, metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the scores that are finite; none where no checkpoint is best."""
    finite = {n: value for n, value in metrics.items() if math.isfinite(value)}
    return finite if self._metrics & finite.keys() else {}

  def _finish(self) -> None:
    """Writes the checksums of the checkpoint that this thread has saved."""
    lease.check()
    self.seconds += time.monotonic() - self._since
    # Object stores have no temporary folder.
    for name in (f"{self._saving}.orbax-checkpoint-tmp", str(self._saving)):
      if (folder := self._folder / name).is_dir():
        checksums.write(folder)
        return

  def _cannot_write(self, error: Exception) -> RunError:
    lease.check()  # Who took it over deletes what is unfinished.
    return RunError(
      f"cannot write a checkpoint to {self._folder}: {first_line(error)} "
      f"Earlier checkpoints are untouched; {run_again(error)}."
    )
