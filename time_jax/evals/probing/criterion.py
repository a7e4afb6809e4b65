"""`choose --by=probe` and `--by=teacher`: what a student knows, as it is."""

import functools

from time_jax.core.storage.paths import Path
from time_jax.evals.common.encoders import open_encoder
from time_jax.evals.probing import targets, text_share
from time_jax.evals.probing.probe import probe
from time_jax.evals.probing.teacher_share import ranking_layer
from time_jax.evals.probing.treebank import Treebank
from time_jax.parallel import sharding
from time_jax.run import assembly, choose, run_files


def choose_by_probe(workdir: Path, train: Path, dev: Path) -> int:
  """Ranks the checkpoints of a run, and its start, by a probe.

  Args:
    workdir: folder of a run of `distill`, or of one of its students.
    train: CoNLL-U file to fit.
    dev: CoNLL-U file to score.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a file is not there or damaged, or there is no checkpoint.
  """
  treebank = Treebank.read(train, dev)
  mesh = sharding.make_mesh()

  def score(model: str, step: int | None) -> choose.Score:
    opened = open_encoder(model, mesh=mesh, dtype="float32", step=step)
    found = probe(opened, treebank.train, treebank.dev, mesh)
    means = {"mean": found.mean, "explained": found.mean_explained}
    return found.best | means

  columns = ", ".join(targets.learn(treebank.train))
  criterion = choose.Criterion(
    name="probe",
    field="mean",
    told=f"probe score (mean of {columns} on {dev.name})",
    record=treebank.record,
    higher_is_better=True,
    form=".2f",
  )
  return choose.choose_by(workdir, criterion, score)


def choose_by_teacher(workdir: Path) -> int:
  """Ranks the checkpoints of a run by what they hold of their teacher.

  That is the share of the variance of one of the teacher's hidden states which
  a linear map explains from the student's last one, on held-out text of the
  run; see `text_share`. Unlike the held-out loss it compares students of
  different starts and losses, but for one that learns that very state, which it
  reads too high. So the student's start is ranked, too, and for a student as
  wide as its teacher as many of the teacher's lowest layers: what could be had
  without distilling.

  Args:
    workdir: folder of a run of `distill`, or of one of its students.

  Returns:
    The exit code, 0.

  Raises:
    UserError: there is no checkpoint, no held-out text, or no teacher any more.
  """
  mesh = sharding.make_mesh()
  config = run_files.read_config(workdir)
  teacher, depth = assembly.teacher_config(config), config.student.num_layers
  layer = ranking_layer(teacher.num_layers)
  same = config.student.hidden_size == teacher.hidden_size
  lower = (depth,) if same and depth < layer else ()

  @functools.cache  # Not before it is known that there is a checkpoint.
  def text() -> text_share.TaughtText:
    return text_share.read_text(config, workdir, mesh, layer, lower)

  def score(model: str, step: int | None) -> choose.Score:
    opened = open_encoder(model, mesh=mesh, dtype="float32", step=step)
    return {"share": text().share(opened)}

  def baselines() -> list[choose.Baseline]:
    told = f"layer {depth} of the teacher as it is"
    instead = "a student that begins with layers of its teacher"
    return [
      choose.Baseline("lower", told, instead, {"share": share})
      for share in map(text().share_of_layer, lower)
    ]

  criterion = choose.Criterion(
    name="teacher",
    field="share",
    told=f"share of the teacher's layer {layer} on held-out text, in percent",
    record={"validation": list(config.data.validation), "layer": layer},
    higher_is_better=True,
    form=".2f",
  )
  return choose.choose_by(workdir, criterion, score, baselines)
