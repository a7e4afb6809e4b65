"""Damaged checkpoints, which a run finds when it starts and moves away."""

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from time_jax.checkpoint import checksums, layout
from time_jax.core.errors import (
  RestartableError,
  UserError,
  first_line,
  is_inconclusive,
  is_storage_lost,
  run_again,
)
from time_jax.core.notes import say
from time_jax.core.storage import lease
from time_jax.core.storage.atomic_file import read_json
from time_jax.core.storage.paths import Path
from time_jax.parallel import host_collectives


def set_damaged_aside(workdir: Path) -> None:
  """Moves damaged checkpoints away; process 0 does, and the others wait.

  Args:
    workdir: folder of the run.

  Raises:
    UserError: they cannot be looked at, or not be moved; or the imported
      student, which no run can make again, is damaged.
    RestartableError: the storage is gone for now.
  """

  def work() -> str:
    try:
      lease.check()
      for line in _move_damaged(workdir):
        say(line)
    except UserError:
      raise
    except (OSError, ValueError) as error:  # TensorStore raises the latter.
      kind = RestartableError if is_storage_lost(error) else UserError
      raise kind(
        f"the checkpoints in {workdir} cannot be looked at, or a damaged one "
        f"not be moved: {first_line(error)} Expected a --workdir that can be "
        f"read and written: {run_again(error)}."
      ) from error
    return ""

  host_collectives.run_on_first(work)


def _move_damaged(workdir: Path) -> list[str]:
  """Moves damaged checkpoints, from the newest down to the first sound one.

  Of older ones only the scores are looked at, as Orbax reads them.

  Returns:
    A line for each: which, why, where it is now.
  """
  lines: list[str] = []
  sound = ""
  for folder in reversed(layout.step_folders(workdir)):
    if checksums.exist(folder):
      why = checksums.find_damage(folder, [layout.METRICS] if sound else ())
    else:
      why = "" if sound else _unreadable(folder)
    if not why:
      sound = sound or folder.name
      continue
    if folder.name == "0":
      raise UserError(
        f"the imported student {folder} is damaged: {why}; `time_jax import` "
        "it again, into a new workdir."
      )
    target = _move(folder, workdir / layout.DAMAGED)
    lines.append(
      f"the checkpoint of step {folder.name} is damaged: {why}. It was moved "
      f"to {target}; "
    )
  goes_on = f"after step {sound}" if sound else "anew: no other is left"
  return [f"{line}the run continues {goes_on}." for line in lines]


def _move(folder: Path, parent: Path) -> Path:
  parent.mkdir(exist_ok=True)
  number, target = 1, parent / folder.name
  while target.exists():
    number += 1
    target = parent / f"{folder.name}-{number}"
  return folder.rename(target)


def _unreadable(folder: Path) -> str:
  """Reads all of a checkpoint that has no checksums, in this process alone.

  Returns:
    Why it cannot be read; empty if it can.
  """
  alone = ocp.options.MultiprocessingOptions(
    active_processes={0}, barrier_sync_key_prefix="unreadable"
  )
  try:
    items = read_json(folder / "_CHECKPOINT_METADATA")["item_handlers"]
    read_json(folder / layout.METADATA / layout.METADATA)
    for name in sorted(set(items) - {layout.METADATA, layout.METRICS}):
      handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
      with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        path: Any = (folder / name).absolute()
        wanted = jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
          dict(reader.metadata(path).item_metadata.tree),
        )
        reader.restore(path, ocp.args.PyTreeRestore(restore_args=wanted))
  except Exception as error:  # Orbax raises a bare one for a damaged array.
    if is_inconclusive(error):
      raise
    return first_line(error.__cause__ or error).rstrip(".")
  return ""
