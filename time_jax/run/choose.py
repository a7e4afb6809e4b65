"""`choose`: selects the best checkpoint of a run, and says by what."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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
from time_jax.data import pipeline
from time_jax.models.family import abstract_params
from time_jax.parallel import sharding
from time_jax.run import (
  assembly,
  corpus,
  hidden_states,
  imported_model,
  run_files,
  run_record,
  start,
)
from time_jax.run.members import Member
from time_jax.step import evaluate, machine

Score = dict[str, float]
Scores = dict[int, Score]
FILE = "choice.json"
_LEASE = "choice.lease"


@dataclasses.dataclass(frozen=True)
class Criterion:
  """By what checkpoints are ranked.

  Attributes:
    name: what `choice.json` calls it.
    field: the score that ranks them.
    told: what that score is, for messages and for the card of the student.
    record: what else is written into `choice.json`, such as files and hashes.
    higher_is_better: whether the highest score is the best.
    form: how scores are shown in the table.
  """

  name: str
  field: str
  told: str
  record: Mapping[str, Any]
  higher_is_better: bool = False
  form: str = ".5f"

  @property
  def reason(self) -> str:
    """Why a checkpoint was chosen, after "the kept checkpoint with"."""
    return f"the {'highest' if self.higher_is_better else 'lowest'} {self.told}"

  def rank(self, score: Score) -> float:
    """Returns a number that is lower for better scores; infinite for none."""
    value = score[self.field]
    if not math.isfinite(value):
      return math.inf
    return -value if self.higher_is_better else value


@dataclasses.dataclass(frozen=True)
class Baseline:
  """What is ranked with the checkpoints, but cannot be chosen.

  Attributes:
    name: what the table and `choice.json` call it.
    told: what it is.
    instead: what to use where it is better than every checkpoint.
    score: its scores.
  """

  name: str
  told: str
  instead: str
  score: Score


def _loss(sources: Sequence[str]) -> Criterion:
  """Returns the criterion of the paper: held-out text of the language."""
  return Criterion(
    name="loss",
    field="loss",
    told="loss on held-out text",
    record={"validation": list(sources)},
  )


def choose(workdir: Path) -> int:
  """Ranks every kept checkpoint of a run and writes `choice.json`.

  The selection of the paper: the lowest loss on held-out text of the language,
  without dropout. That is the loss the run trains with; in the paper, the
  relation loss.

  Args:
    workdir: folder of a run of `distill`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no checkpoint, or no held-out text.
  """
  with _choosing(workdir) as config:
    rows = _held_out(config, workdir)
    with CheckpointReader(workdir) as checkpoints:
      score = _loss_of_steps(Member(config, workdir), rows, checkpoints)
      scores = _some(scores_of(checkpoints, score), workdir)
    return _conclude(workdir, _loss(config.data.validation), scores)


def choose_by(
  workdir: Path,
  criterion: Criterion,
  score: Callable[[str, int | None], Score],
  baselines: Callable[[], Sequence[Baseline]] = list,
) -> int:
  """Does the same by another criterion, for which models alone are enough.

  The student's start is scored, too, so that it shows whether distilling has
  made it better; it is written to WORKDIR/start. That of an imported student is
  its checkpoint of step 0.

  Args:
    workdir: folder of a run of `distill`.
    criterion: what the scores are, and which of them counts.
    score: maps a workdir and a step, or the folder of a model and None, to the
      scores of that model.
    baselines: scores whatever else is to be ranked.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no checkpoint, or one that cannot be scored.
  """
  with _choosing(workdir) as config, CheckpointReader(workdir) as checkpoints:
    found = scores_of(checkpoints, lambda step: score(str(workdir), step))
    scores = _some(found, workdir)
    imported = imported_model.was_imported(workdir, checkpoints.steps())
    folder = None if imported else _written_start(config, workdir)
    ranked = list(baselines())
    if folder:
      begun = score(str(folder), None)
      ranked.append(
        Baseline("start", "the student's start", str(folder), begun)
      )
    return _conclude(workdir, criterion, scores, ranked)


@contextlib.contextmanager
def _choosing(workdir: Path) -> Iterator[ConfigDict]:
  """Holds the choice of a run; yields the run's config."""
  config = run_files.read_config(workdir)
  with lease.hold(workdir / _LEASE, str(workdir / FILE)):
    machine.use_compilation_cache()
    yield config


def _held_out(config: ConfigDict, workdir: Path) -> pipeline.Rows:
  """Returns the rows of held-out text."""
  vocab_size = assembly.teacher_config(config).vocab_size
  rows = corpus.open_corpus(config, workdir, vocab_size).validation
  if rows is None:
    raise UserError(
      f"the run in {workdir} has no held-out text to choose by; expected "
      "data.validation in its config. Without it, `export` takes the newest "
      "checkpoint, or that of --step."
    )
  return rows


def _loss_of_steps(
  member: Member, rows: pipeline.Rows, checkpoints: CheckpointReader
) -> Callable[[int], Score]:
  """Returns a function of a step: the loss of its checkpoint."""
  # All devices of this machine, which need not be the run's.
  mesh = sharding.make_mesh()
  ways = sharding.batch_ways(mesh)
  batch_size = -(-member.config.eval.global_batch_size // ways) * ways
  objectives = assembly.make_objectives(
    {ONE: member.config}, mesh, {ONE: member.workdir}
  )
  objective = objectives[ONE]
  teacher = objective.teacher
  now = {
    run_record.TEACHER: teacher.fingerprint,
    run_record.PROJECTION: hidden_states.projection_sha256(
      member.config, teacher.hidden_size, member.workdir
    ),
  }
  abstract = sharding.abstract(abstract_params(objective.student), mesh)
  evaluator = evaluate.make_evaluator(objectives, mesh)

  def score(step: int) -> Score:
    # What is chosen can be exported.
    run_record.check_inputs(checkpoints.metadata(step), now)
    params = {ONE: checkpoints.student(step, abstract)}
    batches = corpus.evaluation_batches(rows, batch_size, mesh)
    return evaluator(params, teacher.params, batches)[ONE]

  return score


def _some(scores: Scores, workdir: Path) -> Scores:
  """Returns the scores; raises UserError where there are none."""
  if not scores:
    raise UserError(f"no finished checkpoint in {layout.folder(workdir)}.")
  return scores


def _written_start(config: ConfigDict, workdir: Path) -> Path | None:
  """Writes the start of a run's student; None, with a note, if it cannot."""
  try:
    vocab_size = assembly.teacher_config(config).vocab_size
    return start.start_of_run(
      Member(config, workdir),
      vocab_size,
      sharding.make_mesh(),
      lambda: corpus.open_corpus(config, workdir, vocab_size).train,
    )
  except UserError as error:
    note(f"the student's start is not scored: {error}")
    return None


def _conclude(
  workdir: Path,
  criterion: Criterion,
  scores: Scores,
  baselines: Sequence[Baseline] = (),
) -> int:
  """Writes and prints the choice; returns the exit code.

  Args:
    workdir: folder of the run.
    criterion: by what it is chosen.
    scores: the scores of the checkpoints, by step.
    baselines: what else is ranked.
  """
  chosen = best(scores, criterion)
  if jax.process_index() != 0:
    return 0
  content = {
    "step": chosen,
    "by": criterion.name,
    "reason": criterion.reason,
    criterion.field: scores[chosen][criterion.field],
    **criterion.record,
    "candidates": {str(step): values for step, values in scores.items()},
  }
  content |= {each.name: each.score for each in baselines}
  atomic_file.write_json(workdir / FILE, content)
  print(_table(scores, criterion, baselines))
  print(
    f"Chosen: step {chosen} by {criterion.reason}, written to {workdir / FILE}."
  )
  for each in baselines:
    if criterion.rank(each.score) < criterion.rank(scores[chosen]):
      note(
        f"no checkpoint scores as well as {each.told}, so distilling has not "
        "earned its cost yet: give it more steps or another peak_lr, or use "
        f"{each.instead}."
      )
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


def best(scores: Scores, criterion: Criterion) -> int:
  """Returns the step with the best score; of equal ones the last step.

  Args:
    scores: the scores by step.
    criterion: by what they are ranked.

  Raises:
    UserError: no step has a finite score.
  """
  first = _ranked(scores, criterion)[0]
  if not math.isfinite(scores[first][criterion.field]):
    what = criterion.field.replace("_", " ")
    raise UserError(f"no checkpoint has a finite {what}.")
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


def read_reason(workdir: Path) -> str:
  """Returns why the chosen step was, after "the kept checkpoint with".

  Args:
    workdir: folder of a run in which `choose` has run.
  """
  reason = atomic_file.read_json(workdir / FILE).get("reason")
  # Earlier versions knew one criterion, and did not write it down.
  return reason or "the lowest relation loss on held-out text"


def _ranked(scores: Scores, criterion: Criterion) -> list[int]:
  """Returns the steps, the best first; those of equal score the last first."""
  return sorted(scores, key=lambda step: (criterion.rank(scores[step]), -step))


def _table(
  scores: Scores, criterion: Criterion, baselines: Sequence[Baseline]
) -> str:
  """Returns the ranking; of equals, baselines come last."""
  names = list(next(iter(scores.values())))
  rows = [(str(step), scores[step]) for step in _ranked(scores, criterion)]
  rows += [(each.name, each.score) for each in baselines]
  rows.sort(key=lambda row: criterion.rank(row[1]))
  lines = [["rank", "step", *names]]
  for rank, (step, values) in enumerate(rows, 1):
    cells = (f"{values[name]:{criterion.form}}" for name in names)
    lines.append([str(rank), step, *cells])
  return aligned_table(lines, ">")
