"""The table of all commands."""

from time_jax.cli import bench, catalog, finetune, release, train
from time_jax.config.command import Command
from time_jax.core.storage.paths import Path


class Sweep(Command):
  """Run a grid of configurations; scores side by side."""

  name = "sweep"
  example = "sweep configs/sweep_heads.py:lang=da,ud=UD --workdir=runs/heads"
  argument = "file"
  # What is varied: a name that `recipes` lists, or a file, then
  # [:NAME=VALUE,...]. --config.FIELD=VALUE holds for `distill`, `prepare` and
  # `start` in all points.
  file: str
  workdir: Path  # Folder of the sweep.
  # Folder for the small files of finished points (scores, losses, the table),
  # which may be committed: a sweep in another workdir takes them for done.
  results: Path | None = None
  config_fields: tuple[str, ...] = ()

  def run(self) -> int:
    """Runs `sweep`, whose points are made by the commands of this table."""
    from time_jax.sweeps import sweep

    return sweep.sweep_command(
      self.file, self.workdir, COMMANDS, self.config_fields, self.results
    )


COMMANDS: dict[str, type[Command]] = {
  command.name: command
  for command in (
    train.Prepare,
    train.Start,
    train.Distill,
    train.Status,
    train.Choose,
    release.Export,
    release.Verify,
    release.Import,
    release.Spacy,
    finetune.FinetuneUd,
    finetune.FinetuneNer,
    finetune.FinetuneQa,
    finetune.FinetuneSplit,
    finetune.Probe,
    finetune.Predict,
    finetune.Score,
    finetune.Report,
    Sweep,
    catalog.Recipes,
    catalog.Recipe,
    catalog.Languages,
    catalog.Teachers,
    release.Inspect,
    release.Trim,
    catalog.Doctor,
    bench.Data,
    bench.Relations,
    bench.Step,
    bench.Compare,
    bench.Aot,
    bench.Scaling,
    bench.Inference,
    bench.Pipeline,
    bench.Raw,
    bench.Serving,
    bench.Trim,
  )
}
