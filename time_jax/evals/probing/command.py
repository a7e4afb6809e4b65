"""`probe`: what encoders know as they are, side by side."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from time_jax.checkpoint import layout
from time_jax.core.display import aligned_table
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import Path, local_path
from time_jax.evals.common.encoders import OpenedEncoder, open_encoder
from time_jax.evals.probing.probe import ProbeScores, probe
from time_jax.evals.probing.teacher_share import (
  ranking_layer,
  ranking_share,
  teacher_layers,
  teacher_share,
)
from time_jax.evals.probing.treebank import Treebank
from time_jax.parallel import sharding
from time_jax.step import machine


@dataclasses.dataclass(frozen=True)
class Probed:
  """A model and what was found in it.

  Attributes:
    name: its name in tables.
    scores: of the treebank.
    share: result of `ranking_share`; None: no teacher was given.
    record: what the file of results says of it.
  """

  name: str
  scores: ProbeScores
  share: float | None
  record: dict[str, Any]


def probe_command(
  models: Sequence[str],
  treebank: Treebank,
  out: Path | None,
  teacher: str = "",
  allow_pickle: bool = False,
) -> int:
  """Prints, and writes if asked to, what each model knows of a treebank.

  Args:
    models: what `open_model` takes.
    treebank: the sentences.
    out: JSON file to write; None: none.
    teacher: model whose states the models are compared with, too; empty: none.
    allow_pickle: see `weight_files.find_weights`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a model is not there, or is damaged.
  """
  machine.use_compilation_cache()
  mesh = sharding.make_mesh()
  of_teacher = open_model(teacher, mesh, allow_pickle) if teacher else None
  for name, own in treebank.record.items():
    print(f"{name}: {own['sentences']:,} sentences, {own['words']:,} words")
  results = []
  for model in models:
    opened = open_model(model, mesh, allow_pickle)
    results.append(_probed(model, opened, of_teacher, treebank, mesh))
    table = _table(results[-1].scores)
    print(f"\n{results[-1].name}\n{table}", flush=True)
  if len(results) > 1 or teacher:
    print(f"\n{_summary(results)}")
  if of_teacher:
    layer = ranking_layer(of_teacher.config.num_layers)
    print(
      f"of the teacher: the percent of the variance of layer {layer} of "
      f"{of_teacher.name} that a linear map explains from the last state."
    )
  if out:
    content = {
      **treebank.record,
      "teacher": teacher,
      "models": [each.record for each in results],
    }
    atomic_file.write_json(out, content, indent=1)
    print(f"Wrote {out}.")
  return 0


def _probed(
  model: str,
  opened: OpenedEncoder,
  teacher: OpenedEncoder | None,
  treebank: Treebank,
  mesh: Mesh,
) -> Probed:
  data = treebank.train, treebank.dev, mesh
  found = probe(opened, *data)
  record = {
    "model": model,
    "name": opened.name,
    "identity": opened.identity.value,
    **opened.shape,
    "columns": list(found.columns),
    "accuracy": found.accuracy.tolist(),
    "explained": found.explained.tolist(),
    "best": found.best,
    "mean": found.mean,
    "mean_explained": found.mean_explained,
  }
  share = None
  if teacher:
    layers = teacher.config.num_layers
    shares = teacher_share(opened, teacher, *data)
    share = ranking_share(shares, layers)
    record |= {
      "teacher_share": share,
      "teacher_layers": teacher_layers(layers),
      "teacher_shares": shares.tolist(),
    }
  return Probed(opened.name, found, share, record)


def open_model(
  model: str, mesh: Mesh, allow_pickle: bool = False
) -> OpenedEncoder:
  """Opens an encoder to be probed.

  Args:
    model: WORKDIR@STEP, or what `encoders.open_encoder` takes.
    mesh: the devices.
    allow_pickle: see `weight_files.find_weights`.

  Raises:
    UserError: there is no such model.
  """
  place, at, step = model.rpartition("@")
  number = None
  # After a name on the hub, @ gives a revision.
  if at and layout.is_workdir(local_path(place)):
    if not step.isdecimal():
      raise UserError(
        f"{model}: {step!r} is no step of {place}; expected a number, such as "
        f"{place}@100."
      )
    model, number = place, int(step)
  return open_encoder(
    model, mesh=mesh, dtype="float32", step=number, allow_pickle=allow_pickle
  )


def _table(found: ProbeScores) -> str:
  """Returns a row for each state, and the best of each column."""
  rows = [["state", *found.columns, "mean"]]
  for state, values in enumerate(found.accuracy.tolist()):
    rows.append([str(state), *_cells(values)])
  rows.append(["best", *_cells(list(found.best.values()))])
  return aligned_table(rows, ">")


def _summary(results: Sequence[Probed]) -> str:
  """Returns a row for each model, with the best of each column."""
  columns = list(results[0].scores.columns)
  rows = [["model", *columns, "mean", "explained"]]
  for each in results:
    cells = _cells(list(each.scores.best.values()))
    rows.append([each.name, *cells, f"{each.scores.mean_explained:.2f}"])
    if each.share is not None:
      rows[-1].append(f"{each.share:.2f}")
  if results[0].share is not None:
    rows[0].append("of the teacher")
  return aligned_table(rows, "<>")


def _cells(values: Sequence[float]) -> list[str]:
  mean = sum(values) / len(values)
  return [f"{value:.2f}" for value in [*values, mean]]
