"""Which checkpoints of a run stay, and which Orbax deletes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from time_jax.telemetry.history import METRIC, loss_of


def manager_options(
  keep_latest: int,
  keep_every: int | None,
  metrics: Sequence[str],
  highest: bool,
  before_finished: Callable[[], None],
) -> ocp.CheckpointManagerOptions:
  """Returns the options of Orbax's manager for a run that saves.

  Args:
    keep_latest: how many of the newest checkpoints stay. The one with the best
      evaluation stays as well: it alone would make a resumed run go back.
    keep_every: checkpoints at multiples of this many steps stay for ever.
    metrics: names of scores, by each of which one checkpoint is the best.
    highest: whether the best is the one with the highest score.
    before_finished: called by the thread that saves, before a checkpoint gets
      its name.
  """
  stays: list[policies.PreservationPolicy] = [
    policies.LatestN(keep_latest),
    *(
      policies.BestN(
        get_metric_fn=_score(metric, highest),
        reverse=not highest,
        n=1,
        keep_checkpoints_without_metrics=False,
      )
      for metric in metrics
    ),
  ]
  if keep_every:
    stays.append(policies.EveryNSteps(keep_every))
  return ocp.CheckpointManagerOptions(
    preservation_policy=policies.AnyPreservationPolicy(stays),
    # Without best_fn Orbax does not write the metrics, and a resumed run would
    # delete the best checkpoint.
    best_fn=_score(metrics[0], highest),
    best_mode="max" if highest else "min",
    cleanup_tmp_directories=True,  # what a killed run left half-written
    async_options=ocp.AsyncOptions(
      post_finalization_callback=before_finished,
      # Else threads wait 300 s for a folder that cannot be made.
      create_directories_asynchronously=False,
    ),
  )


def _score(metric: str, highest: bool) -> Callable[[Any], float]:
  """Returns what looks a score up; the worst where a checkpoint has none.

  Of several students, one may have ended, or its score was not finite.
  """
  worst = -math.inf if highest else math.inf

  def score(scores: Any) -> float:
    if not metric.endswith(METRIC):
      return scores.get(metric, worst)
    found = loss_of(scores, metric.removesuffix(METRIC))
    return worst if found is None else found

  return score
