"""Reading the checkpoints of a run, which may go on meanwhile.

A checkpoint holds named trees of arrays and a metadata record. The trees are
"params", "ema" and "rest" in `distill`, "params", "averaged" and "rest" in
`finetune`: parameters lie apart, so that evaluation and export read those
alone. Nothing else is needed to go on: a batch and every random key are
functions of (seed, step). The teacher is never saved.
"""

from collections.abc import Collection, Mapping
from typing import Any, Self

import orbax.checkpoint as ocp

from time_jax.checkpoint import checksums, layout
from time_jax.config.students import ONE
from time_jax.core import nonfinite
from time_jax.core.errors import (
  GoneError,
  UserError,
  first_line,
  is_inconclusive,
  run_again,
)
from time_jax.core.storage.paths import Path


class Manager(ocp.CheckpointManager):
  """Orbax's manager, which leaves the question of preemption to the loop.

  It would ask as well, from the thread that finishes a save and with the step
  of that save. JAX takes the number of the last question for the step that the
  run is at, so a signal that came just then would be lost.
  """

  def reached_preemption(self, step: int) -> bool:
    """Returns False: `time_jax.parallel.processes.preempted` says it."""
    del step
    return False


class CheckpointReader:
  """The checkpoints of a workdir by step, which it never changes.

  A context manager.
  """

  def __init__(self, workdir: Path) -> None:
    """Opens the checkpoints of a run.

    Args:
      workdir: folder of the run; or of one of its students, whose trees and
        record are read as if it were alone.

    Raises:
      UserError: there are none, or they cannot be opened.
    """
    self._place = layout.checkpoints_of(workdir)
    self._folder = (self._place.run / layout.FOLDER).absolute()
    self._verified: set[int] = set()  # steps whose every byte was looked at
    self._manager = self._open(workdir)

  def _open(self, workdir: Path) -> Manager:
    if not self._folder.is_dir():
      raise UserError(
        f"no checkpoints in {workdir}; expected the --workdir of a run of "
        "`time_jax distill`."
      )
    options = ocp.CheckpointManagerOptions(
      read_only=True, create=False, save_interval_steps=0
    )
    while True:
      known = layout.step_folders(workdir)
      try:
        return self._open_with(options)
      except UserError:
        # Orbax reads something of all: a running run may delete one meanwhile.
        if not layout.are_vanishing(known):
          raise

  def _open_with(self, options: ocp.CheckpointManagerOptions) -> Manager:
    try:
      return Manager(self._folder, options=options)
    except (OSError, ValueError) as error:
      advice = ""
      for folder in layout.step_folders(self._folder.parent):
        if not advice and (why := checksums.find_damage(folder)):
          advice = f" {folder} is damaged: {why}; move that folder away."
      raise UserError(
        f"the checkpoints in {self._folder} cannot be opened: "
        f"{first_line(error)}{advice}"
      ) from error

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: type | None, *error: object) -> None:
    self._manager.close()

  def steps(self) -> list[int]:
    """Returns the steps of the finished checkpoints, in order."""
    return sorted(self._manager.all_steps())

  def folder(self, step: int) -> Path:
    """Returns the folder of the checkpoint of a step."""
    return self._folder / str(step)

  def metadata(self, step: int) -> dict[str, Any]:
    """Returns the metadata record that was saved with a step.

    Raises:
      UserError: it cannot be read.
    """
    self._verify(step, [layout.METADATA])
    items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
    student = self._place.student
    try:
      record = self._manager.restore(step, args=items)[layout.METADATA]
      return record if student == ONE else record[layout.STUDENTS][student]
    except (OSError, ValueError, KeyError) as error:
      raise self._cannot_read(step, error) from error

  def restore(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Reads trees into the shardings of `abstract`, on any mesh.

    Args:
      step: one of `steps`.
      abstract: names -> trees of ShapeDtypeStruct with shardings; only these
        are read.

    Returns:
      Names -> trees of arrays.

    Raises:
      UserError: they cannot be read, or are not finite.
    """
    items = {
      self._place.item(name): ocp.args.StandardRestore(tree)
      for name, tree in abstract.items()
    }
    self._verify(step, items)
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax raises a bare one for a damaged array.
      raise self._cannot_read(step, error) from error
    trees = {name: restored[self._place.item(name)] for name in abstract}
    if not nonfinite.all_finite(trees):  # Earlier versions saved such, too.
      raise self._cannot_read(step, ValueError("it holds NaN or infinity"))
    return trees

  def student(self, step: int, abstract: Any) -> Any:
    """Reads a student's parameters: their average, where the run keeps one.

    Args:
      step: one of `steps`.
      abstract: a tree of ShapeDtypeStruct with shardings.

    Returns:
      The tree of arrays.

    Raises:
      UserError: it cannot be read, or is not finite.
    """
    name = self._student_tree(step)
    return self.restore(step, {name: abstract})[name]

  def _student_tree(self, step: int) -> str:
    """Returns the name of the tree that `student` reads, which is sound."""
    params, ema = map(self._place.item, ("params", "ema"))
    self._verify(step, (params, ema))
    folder = self.folder(step)
    # The checksums know of one that is being deleted just now.
    averaged = (folder / ema).is_dir() or checksums.name_item(folder, ema)
    return "ema" if averaged else "params"

  def positions(self, step: int) -> int:
    """Returns the number of rows of the student's position table.

    Args:
      step: one of `steps`.

    Raises:
      UserError: it cannot be read.
    """
    item = self._place.item(self._student_tree(step))
    path = self.folder(step) / item
    try:
      with ocp.PyTreeCheckpointer() as reader:
        tree: Any = reader.metadata(path).item_metadata.tree
      return tree["embeddings"]["position"]["embedding"].shape[0]
    except Exception as error:  # Orbax raises a bare one, see `restore`.
      raise self._cannot_read(step, error) from error

  def _verify(self, step: int, items: Collection[str]) -> None:
    """Raises UserError if what is to be read is not what was written."""
    folder = self.folder(step)
    unverified = step not in self._verified and checksums.exist(folder)
    if unverified and (why := checksums.find_damage(folder, items)):
      raise self._cannot_read(step, ValueError(why))

  def _cannot_read(self, step: int, error: Exception) -> UserError:
    if step in self.steps() and layout.are_vanishing([self.folder(step)]):
      return GoneError(
        f"the checkpoint {self.folder(step)} was deleted while it was read: a "
        "run keeps only some. Run the same command again."
      )
    why = first_line(error.__cause__ or error)
    # Nothing else holds the weights of an imported student.
    advice = (
      "Move that folder away to go back to the one before."
      if step
      else "It is what `time_jax import` made: import the model again, into a "
      "new --workdir."
    )
    if is_inconclusive(error):
      advice = f"It may be sound: {run_again(error)}."
    return UserError(
      f"the checkpoint {self.folder(step)} cannot be read: {why} {advice}"
    )
