"""The model that `import` put into a workdir, and what is recorded of it."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file, json_file
from time_jax.core.storage.paths import Path
from time_jax.models.bert import BertConfig
from time_jax.telemetry import history

_MARK = "imported.json"
_FACTS = ("from", "sha256", "identity", "words")


def is_imported(checkpoints: CheckpointReader) -> bool:
  """Returns whether a workdir holds nothing but what `import` put there."""
  return checkpoints.steps() == [0]


def was_imported(workdir: Path, steps: Collection[int]) -> bool:
  """Returns whether a workdir's first weights are those of an import.

  Args:
    workdir: folder of the run.
    steps: steps of its checkpoints. `distill` saves none of step 0.
  """
  return (workdir / _MARK).exists() or 0 in steps


def origin(checkpoints: CheckpointReader) -> dict[str, Any]:
  """Returns what is recorded of an imported model in all later checkpoints.

  Args:
    checkpoints: the workdir's checkpoints.

  Returns:
    The facts as "imported"; empty if the workdir's student was not imported.
  """
  if 0 not in checkpoints.steps():
    return {}
  imported = checkpoints.metadata(0)["imported"]
  return {"imported": {n: imported[n] for n in _FACTS if n in imported}}


def mark_imported(workdir: Path, imported: Mapping[str, Any]) -> None:
  """Records in a file that the first weights of a workdir were imported.

  Without it, a workdir that has lost its checkpoints would look like a new one.

  Args:
    workdir: folder with a checkpoint of step 0.
    imported: what that checkpoint records of the model; if empty, no file is
      written.
  """
  if imported and not (workdir / _MARK).exists():
    facts = {n: imported[n] for n in _FACTS if n in imported}
    atomic_file.write_json(workdir / _MARK, facts)


def check_not_lost(workdir: Path, checkpoints: Collection[Any]) -> None:
  """Refuses to start anew in a workdir that has lost its imported student.

  Args:
    workdir: folder of the run.
    checkpoints: the checkpoints in it.

  Raises:
    UserError: there is no checkpoint, although one was imported.
  """
  if checkpoints:
    return
  name = ""
  if (workdir / _MARK).exists():
    name = json_file.read_json(workdir / _MARK).get("from", "a model")
  # Earlier versions of `import` left no such file; but a run writes its config
  # only after it has noted its start.
  elif (workdir / "config.json").exists() and not history.starts(workdir):
    name = "a model"
  if name:
    raise UserError(
      f"{workdir} was made by `time_jax import` of {name}, but its checkpoint "
      "of step 0, which held the weights, is gone, and a run here would begin "
      "with random ones. Put checkpoints/0 back, or import the model again, "
      "into a new --workdir."
    )


def shape_of(
  shape: BertConfig, checkpoints: CheckpointReader, step: int
) -> BertConfig:
  """Returns the sizes of the student in a checkpoint.

  Args:
    shape: sizes of the workdir's student. A run may use fewer positions than
      the imported student had.
    checkpoints: the workdir's checkpoints.
    step: step of one of them.
  """
  return dataclasses.replace(shape, max_positions=checkpoints.positions(step))


def vocabulary_sha256(workdir: Path) -> str:
  """Returns the SHA-256 of the vocabulary of a model without a tokenizer.

  Args:
    workdir: folder that `import` made.

  Returns:
    The hash as it was recorded; empty if it was not.
  """
  mark = workdir / _MARK
  return json_file.read_json(mark).get("words", "") if mark.exists() else ""
