"""The metrics of a run in Weights & Biases too, where that is installed."""

import importlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from time_jax.core.errors import UserError, first_line, without_secrets
from time_jax.core.notes import say
from time_jax.core.storage import atomic_file

_FILE = "wandb.json"


def check_installed(project: str) -> None:
  """UserError where a project is given, but not the package."""
  if project and importlib.util.find_spec("wandb") is None:
    raise UserError(
      f"log.wandb={project!r} needs the package wandb; `pip install "
      "-e '.[wandb]'` in the repository on all hosts, or leave it empty."
    )


class Tracker:
  """A run there; of all sessions of a workdir the same one."""

  def __init__(
    self, project: str, workdir: pathlib.Path, settings: Mapping[str, Any]
  ) -> None:
    """Starts or continues it, by the id in WORKDIR/wandb.json.

    Args:
      project: its name.
      workdir: of the run.
      settings: to be shown there; what is secret in them is cut out.

    Raises:
      UserError: it cannot be started; nobody is logged in, say.
    """
    wandb: Any = importlib.import_module("wandb")
    path = workdir / _FILE
    known = _read(path)
    try:
      self._run = wandb.init(
        project=project,
        id=known.get("id"),
        resume="allow",
        name=workdir.name,
        dir=str(workdir),
        config=_shown(settings),
      )
    except Exception as error:  # Of its own kinds, and of the network's.
      raise UserError(
        f"log.wandb={project!r} cannot be started: {first_line(error)} Log in "
        "by `wandb login`, set WANDB_MODE=offline, or leave it empty."
      ) from error
    atomic_file.write_json(path, {"id": self._run.id})
    self._lost = False
    # Its own count of steps may not go back, as a run does that was killed.
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, scalars: Mapping[str, float | int]) -> None:
    """Hands over the scalars of a step."""
    self._try(lambda: self._run.log({"step": step, **scalars}))

  def close(self, failed: bool) -> None:
    """Sends what is left.

    Args:
      failed: whether the session ends with an error.
    """
    self._try(lambda: self._run.finish(exit_code=int(failed)))

  def _try(self, call: Callable[[], Any]) -> None:
    """A run goes on without it, and ends for its own reasons."""
    if self._lost:
      return
    try:
      call()
    except Exception as error:
      self._lost = True
      say(
        f"no more metrics to Weights & Biases: {first_line(error)} They go on "
        "in metrics.jsonl."
      )


def _read(path: pathlib.Path) -> dict[str, Any]:
  """What it says; nothing where it is torn, and a new run begins there."""
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _shown(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: _shown(part) for name, part in value.items()}
  if isinstance(value, list | tuple):
    return [_shown(part) for part in value]
  return without_secrets(value) if isinstance(value, str) else value
