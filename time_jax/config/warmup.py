"""A warm-up that would last for the whole run: refused, or shortened."""

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from time_jax.core.errors import DAMAGED_JSON, UserError
from time_jax.core.notes import note
from time_jax.core.storage.paths import Path

FIELD = "train.warmup_steps"


def fitting(
  asked: int,
  num_steps: int,
  *,
  typed: Collection[str] = (),
  begun: bool = False,
  prefix: str = "",
) -> int:
  """Returns the warm-up steps of a run, which end before the run does.

  A learning rate that rises until the end never falls, and may never come
  close to its peak.

  Args:
    asked: warm-up steps of the config.
    num_steps: number of steps of the run.
    typed: names of the fields that were given with the command. A warm-up that
      came from the recipe is shortened to a tenth of the run, with a line.
    begun: whether the workdir holds a run with this very warm-up: one of an
      earlier version, which did not shorten, goes on as it began.
    prefix: what stands before the field's name, such as "students.xs.".

  Raises:
    UserError: a warm-up was typed that is not shorter than the run.
  """
  if begun or asked < num_steps:
    return asked
  fits, name = num_steps // 10, prefix + FIELD
  if FIELD in typed:
    raise UserError(
      f"{name}={asked} is not shorter than the run, which has {num_steps} "
      f"steps; expected fewer, such as --config.{name}={fits}."
    )
  note(
    f"{name}={asked} of the recipe is shortened to {fits}, a tenth of the "
    f"{num_steps} steps of this run."
  )
  return fits


def fit(
  train: ConfigDict, workdir: Path, typed: Collection[str], prefix: str = ""
) -> None:
  """Sets the warm-up that fits in the config of a run of `distill`.

  Args:
    train: the section `train` of the config.
    workdir: folder of the run.
    typed: see `fitting`.
    prefix: see `fitting`.
  """
  asked = {name: train[name] for name in ("num_steps", "warmup_steps")}
  train.warmup_steps = fitting(
    train.warmup_steps,
    train.num_steps,
    typed=typed,
    begun=is_recorded([workdir / "config.json"], asked),
    prefix=prefix,
  )


def is_recorded(paths: Iterable[Path], asked: Mapping[str, Any]) -> bool:
  """Returns whether a run was recorded with these values in `train`.

  A file that is damaged, or that is of another run, does not count: it is
  reported where its content is needed.

  Args:
    paths: JSON files that hold the config of the run, or an object `run` with
      it. The first one that can be read decides.
    asked: the values by the names of their fields.
  """
  for path in paths:
    with contextlib.suppress(OSError, *DAMAGED_JSON):
      content = json.loads(path.read_bytes())
      train = content.get("run", content)["train"]
      return all(train[name] == value for name, value in asked.items())
  return False
