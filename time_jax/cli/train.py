"""Commands that make a student: text to rows, training, the checkpoint."""

from typing import Literal

from time_jax.config.command import Command, RecipeCommand
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path

_RECIPE = "--config=configs/quickstart.py --workdir=runs/quickstart"


class Prepare(RecipeCommand):
  """Tokenise text into rows on disk (distill does it too, when needed)."""

  name = "prepare"
  example = f"prepare {_RECIPE}"
  workdir: Path  # Folder of the run.
  # Compare every byte on disk with the hashes of when it was written.
  verify: bool = False

  def run(self) -> int:
    """Tokenises the text of the recipe."""
    from time_jax.run import corpus

    return corpus.prepare_command(self.config, self.workdir, self.verify)


class Start(RecipeCommand):
  """Write students as they are before their first step, to be scored."""

  name = "start"
  example = (
    "start --config=time:lang=da,size=s "
    "--config.student.init_from=teacher:lower --workdir=runs/da"
  )
  once = True
  workdir: Path  # Folder of the run; the student goes into WORKDIR/start.

  def run(self) -> int:
    """Writes the first weights of the recipe as a model's folder."""
    from time_jax.run import start

    return start.start_command(self.config, self.workdir, self.changed_fields)


class Distill(RecipeCommand):
  """Train a student; continues by itself where an earlier run ended."""

  name = "distill"
  example = f"distill {_RECIPE} --config.train.num_steps=100"
  workdir: Path  # Folder of the run.
  # START:STOP, steps to trace into WORKDIR/profile; STOP is not one of them.
  profile: str = ""

  def run(self) -> int:
    """Trains up to the last step of the recipe."""
    from time_jax.run import distill

    return distill.distill(
      self.config, self.workdir, self.profile, self.changed_fields
    )


class Status(Command):
  """How a run is doing: progress, health, speed, losses, lost time."""

  name = "status"
  example = "status runs/quickstart --plot=losses.png"
  argument = "workdir"
  workdir: Path  # Folder of the run, or of one of its students.
  plot: Path | None = None  # PNG to draw the losses into.

  def run(self) -> int:
    """Prints what the run has written down."""
    from time_jax.checkpoint import layout
    from time_jax.run import status, students_status

    students = layout.students_of(self.workdir)
    if students and not self.plot:
      return students_status.status_command(self.workdir, students)
    layout.check_one_student(self.workdir)
    return status.status_command(self.workdir, self.plot)


class Choose(Command):
  """Rank the kept checkpoints by held-out text, teacher or treebank."""

  name = "choose"
  example = "choose --workdir=runs/quickstart"
  once = True
  workdir: Path  # Folder of the run, or of one of its students.
  # What counts: the loss on held-out text; how much of the teacher's states is
  # in the student's; what `probe` finds. By the last two, the student's start
  # is ranked as well.
  by: Literal["loss", "teacher", "probe"] = "loss"
  train: Path | None = None  # With --by=probe: CoNLL-U file to fit.
  dev: Path | None = None  # With --by=probe: CoNLL-U file to score.

  def run(self) -> int:
    """Evaluates the checkpoints and writes which is the best."""
    if self.by == "probe":
      if not self.train or not self.dev:
        raise UserError(
          "--by=probe needs a treebank: expected --train=FILE and --dev=FILE, "
          "in CoNLL-U."
        )
      from time_jax.evals.probing import criterion

      return criterion.choose_by_probe(self.workdir, self.train, self.dev)
    if self.train or self.dev:
      raise UserError(
        "--train and --dev are for --by=probe; expected it with them, or "
        "neither."
      )
    if self.by == "teacher":
      from time_jax.evals.probing import criterion

      return criterion.choose_by_teacher(self.workdir)
    from time_jax.run import choose

    return choose.choose(self.workdir)
