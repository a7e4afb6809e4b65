"""`choose --by=probe`: the checkpoint that knows most of a treebank."""

from time_jax.core.storage.paths import Path
from time_jax.evals.common.encoders import open_encoder
from time_jax.evals.probing import targets
from time_jax.evals.probing.probe import probe
from time_jax.evals.probing.treebank import Treebank
from time_jax.parallel import sharding
from time_jax.run import choose


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
