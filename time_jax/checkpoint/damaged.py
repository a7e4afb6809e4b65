"""Checkpoints that are damaged: found when a run starts, and moved aside."""

import json
import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from time_jax.checkpoint import checksums
from time_jax.core.errors import (
  RestartableError,
  UserError,
  is_lost,
  is_unseen,
  run_again,
)
from time_jax.core.storage import lease
from time_jax.parallel import processes

METADATA = "metadata"  # The record of a checkpoint, beside its trees.


def set_aside(workdir: pathlib.Path) -> None:
  """Moves damaged checkpoints away: process 0 does, and the others wait.

  Raises:
    UserError: they cannot be looked at, or not be moved.
    RestartableError: for now, as their storage is gone.
  """
  problem: Exception | None = None
  if jax.process_index() == 0:
    try:
      lease.check()
      for line in checksums.set_aside(workdir, _unreadable):
        print(f"time_jax: {line}", file=sys.stderr, flush=True)
    except (OSError, ValueError) as error:
      problem = error
  # 1: no; 2: not now.
  refused = processes.of_first(bool(problem) + is_lost(problem))
  if not refused:
    return
  text = f"process 0 cannot use {workdir}; its log says why."
  if isinstance(problem, UserError):
    text = str(problem)
  elif problem:
    text = (
      f"the checkpoints in {workdir} cannot be looked at, or a damaged one not "
      f"be moved: {reason(problem)} Expected a --workdir that can be read and "
      f"written: {run_again(problem)}."
    )
  raise (RestartableError if refused == 2 else UserError)(text) from problem


def _unreadable(folder: pathlib.Path) -> str:
  """Why a checkpoint cannot be read; empty: all of it can, by one process."""
  alone = ocp.options.MultiprocessingOptions(
    active_processes={0}, barrier_sync_key_prefix="unreadable"
  )
  try:
    known = json.loads((folder / "_CHECKPOINT_METADATA").read_bytes())
    json.loads((folder / METADATA / METADATA).read_bytes())
    # Those of metrics and metadata are no trees.
    for name in sorted(
      set(known["item_handlers"]) - {METADATA, checksums.METRICS}
    ):
      handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
      with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        place = (folder / name).absolute()
        wanted = jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
          dict(reader.metadata(place).item_metadata.tree),
        )
        reader.restore(place, ocp.args.PyTreeRestore(restore_args=wanted))
  except Exception as error:  # Orbax raises a bare one for a damaged array.
    if is_unseen(error):
      raise
    return reason(error.__cause__ or error).rstrip(".")
  return ""


def reason(error: BaseException) -> str:
  """The first line of what an error says, as a sentence."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(".") + "."
