"""Which checkpoints of a run stay, and which Orbax deletes."""

import operator
from collections.abc import Callable

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies


def manager_options(
  keep_latest: int,
  keep_every: int | None,
  metric: str,
  highest: bool,
  before_finished: Callable[[], None],
) -> ocp.CheckpointManagerOptions:
  """Returns the options of Orbax's manager for a run that saves.

  Args:
    keep_latest: how many of the newest checkpoints stay. The one with the best
      evaluation stays as well: it alone would make a resumed run go back.
    keep_every: checkpoints at multiples of this many steps stay for ever.
    metric: name of the score by which one checkpoint is the best.
    highest: whether the best is the one with the highest score.
    before_finished: called by the thread that saves, before a checkpoint gets
      its name.
  """
  score = operator.itemgetter(metric)
  stays: list[policies.PreservationPolicy] = [
    policies.LatestN(keep_latest),
    policies.BestN(
      get_metric_fn=score,
      reverse=not highest,
      n=1,
      keep_checkpoints_without_metrics=False,
    ),
  ]
  if keep_every:
    stays.append(policies.EveryNSteps(keep_every))
  return ocp.CheckpointManagerOptions(
    preservation_policy=policies.AnyPreservationPolicy(stays),
    # Without best_fn Orbax does not write the metrics, and a resumed run would
    # delete the best checkpoint.
    best_fn=score,
    best_mode="max" if highest else "min",
    cleanup_tmp_directories=True,  # what a killed run left half-written
    async_options=ocp.AsyncOptions(
      post_finalization_callback=before_finished,
      # Else threads wait 300 s for a folder that cannot be made.
      create_directories_asynchronously=False,
    ),
  )
