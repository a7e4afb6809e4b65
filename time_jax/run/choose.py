"""`choose`: selects the checkpoint with the lowest held-out relation loss."""

import contextlib
import math
from collections.abc import Callable, Sequence

import jax
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.checkpoint.reader import CheckpointReader
from time_jax.config.students import ONE
from time_jax.core.display import aligned_table
from time_jax.core.errors import DAMAGED_JSON, GoneError, UserError
from time_jax.core.notes import note
from time_jax.core.storage import atomic_file, lease
from time_jax.core.storage.paths import Path
from time_jax.models.family import abstract_params
from time_jax.parallel import sharding
from time_jax.run import assembly, corpus, run_files
from time_jax.step import evaluate, machine

Scores = dict[int, dict[str, float]]
FILE = "choice.json"
_LEASE = "choice.lease"


def choose(workdir: Path) -> int:
  """Ranks every kept checkpoint of a run and writes `choice.json`.

  The selection of the paper: held-out text of the language, no dropout.

  Args:
    workdir: folder of a run of `distill`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no checkpoint, or no held-out text.
  """
  config = run_files.read_config(workdir)
  with lease.hold(workdir / _LEASE, str(workdir / FILE)):
    return _choose(config, workdir)


def _choose(config: ConfigDict, workdir: Path) -> int:
  machine.use_compilation_cache()
  vocab_size = assembly.teacher_config(config).vocab_size
  rows = corpus.open_corpus(config, workdir, vocab_size).validation
  if rows is None:
    raise UserError(
      f"the run in {workdir} has no held-out text to choose by; expected "
      "data.validation in its config. Without it, `export` takes the newest "
      "checkpoint, or that of --step."
    )
  # All devices of this machine, which need not be the run's.
  mesh = sharding.make_mesh()
  ways = sharding.batch_ways(mesh)
  batch_size = -(-config.eval.global_batch_size // ways) * ways
  objectives = assembly.make_objectives({ONE: config}, mesh)
  objective = objectives[ONE]
  abstract = sharding.abstract(abstract_params(objective.student), mesh)
  score = evaluate.make_evaluator(objectives, mesh)
  with CheckpointReader(workdir) as checkpoints:

    def score_of(step: int) -> dict[str, float]:
      checkpoints.metadata(step)  # What is chosen can be exported.
      params = {ONE: checkpoints.student(step, abstract)}
      batches = corpus.evaluation_batches(rows, batch_size, mesh)
      return score(params, objective.teacher.params, batches)[ONE]

    scores = scores_of(checkpoints, score_of)
  if not scores:
    raise UserError(f"no finished checkpoint in {layout.folder(workdir)}.")
  if jax.process_index() == 0:
    _write(workdir, scores, config.data.validation)
    print(_table(scores))
    print(f"Chosen: step {best(scores)}, written to {workdir / FILE}.")
    print(f"Next: python -m time_jax export --workdir={workdir}")
  return 0


def scores_of(
  checkpoints: CheckpointReader, score: Callable[[int], dict[str, float]]
) -> Scores:
  """Scores every checkpoint that is still there when all have been scored.

  Those that a running `distill` deletes meanwhile are left out, with a note.

  Args:
    checkpoints: the run's checkpoints, opened to read.
    score: maps a step to the scores of its checkpoint.

  Returns:
    The scores by step.
  """
  scores: Scores = {}
  for step in checkpoints.steps():
    with contextlib.suppress(GoneError):
      scores[step] = score(step)
  kept = {s: v for s, v in scores.items() if checkpoints.folder(s).is_dir()}
  if gone := [step for step in checkpoints.steps() if step not in kept]:
    note(
      f"left out: step {', '.join(map(str, gone))}, which the run deleted "
      "meanwhile."
    )
  return kept


def best(scores: Scores) -> int:
  """Returns the step with the lowest loss; of equal losses the last step.

  Args:
    scores: the scores by step, among them "relation_loss".

  Raises:
    UserError: no step has a finite loss.
  """
  first = _ranked(scores)[0]
  if not math.isfinite(scores[first]["relation_loss"]):
    raise UserError("no checkpoint has a finite relation loss.")
  return first


def read_choice(workdir: Path) -> int | None:
  """Returns the step that `choose` has selected.

  Args:
    workdir: folder of a run of `distill`.

  Returns:
    The step; None if `choose` has not run there.

  Raises:
    UserError: the file with the choice is damaged.
  """
  path = workdir / FILE
  if not path.exists():
    return None
  try:
    return int(atomic_file.read_json(path)["step"])
  except (OSError, *DAMAGED_JSON) as error:
    raise UserError(
      f"{path} is damaged: {error!r}; run `time_jax choose` again."
    ) from error


def _ranked(scores: Scores) -> list[int]:
  """Returns the steps, the best first; those of equal loss the last first."""

  def key(step: int) -> tuple[float, int]:
    loss = scores[step]["relation_loss"]
    return (loss if math.isfinite(loss) else math.inf, -step)

  return sorted(scores, key=key)


def _write(workdir: Path, scores: Scores, sources: Sequence[str]) -> None:
  content = {
    "step": best(scores),
    "relation_loss": scores[best(scores)]["relation_loss"],
    "validation": list(sources),
    "candidates": {str(step): values for step, values in scores.items()},
  }
  atomic_file.write_json(workdir / FILE, content)


def _table(scores: Scores) -> str:
  names = list(next(iter(scores.values())))
  lines = [["rank", "step", *names]]
  for rank, step in enumerate(_ranked(scores), 1):
    values = (f"{scores[step][name]:.5f}" for name in names)
    lines.append([str(rank), str(step), *values])
  return aligned_table(lines, ">")
