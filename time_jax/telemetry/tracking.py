"""Sends the metrics of a run to Weights & Biases, where that is installed."""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from packaging.version import Version

from time_jax.core.errors import (
  DAMAGED_JSON,
  UserError,
  first_line,
  without_secrets,
)
from time_jax.core.notes import say
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import Path

_FILE = "wandb.json"


# Earlier ones have one run at a time in a process.
_SEVERAL = "0.19.10"


def check_installed(project: str, *, several: bool = False) -> None:
  """Checks that the package is there if a project is given.

  Args:
    project: the value of `log.wandb`; empty: not wanted.
    several: whether there are several students, each with a run there.

  Raises:
    UserError: the package wandb is missing, or too old.
  """
  if not project:
    return
  if importlib.util.find_spec("wandb") is None:
    raise UserError(
      f"log.wandb={project!r} needs the package wandb; `pip install "
      "-e '.[wandb]'` in the repository on all hosts, or leave it empty."
    )
  if not several:
    return
  if Version(found := metadata.version("wandb")) < Version(_SEVERAL):
    raise UserError(
      f"log.wandb={project!r} needs wandb {_SEVERAL} or newer for several "
      f"students, not {found}; `pip install -U wandb`, or leave it empty."
    )


class Tracker:
  """A run at Weights & Biases; all sessions of a workdir share one."""

  def __init__(
    self,
    project: str,
    workdir: Path,
    settings: Mapping[str, Any],
    group: str = "",
  ) -> None:
    """Starts the run there, or continues the one of WORKDIR/wandb.json.

    Args:
      project: name of the project there.
      workdir: folder of the run.
      settings: shown beside the run; secrets in them are cut out.
      group: name of the group of runs of this process, of which this is one;
        empty: it is the only one.

    Raises:
      UserError: the run cannot be started, such as without a login.
    """
    wandb: Any = importlib.import_module("wandb")
    path, run_id = workdir / _FILE, None
    with contextlib.suppress(OSError, *DAMAGED_JSON):  # It may be torn.
      run_id = atomic_file.read_json(path)["id"]
    try:
      self._run = wandb.init(
        project=project,
        id=run_id,
        resume="allow",
        name=workdir.name,
        dir=str(workdir),
        config=_shown(settings),
        **({"group": group, "reinit": "create_new"} if group else {}),
      )
    except Exception as error:  # wandb's own kinds, and the network's
      raise UserError(
        f"log.wandb={project!r} cannot be started: {first_line(error)} Log in "
        "by `wandb login`, set WANDB_MODE=offline, or leave it empty."
      ) from error
    atomic_file.write_json(path, {"id": self._run.id})
    self._lost = False
    # Its own count of steps cannot go back, as a killed run does.
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, scalars: Mapping[str, float | int]) -> None:
    """Sends the scalars of a step."""
    self._try(lambda: self._run.log({"step": step, **scalars}))

  def close(self, failed: bool) -> None:
    """Sends what is left.

    Args:
      failed: whether this session of the run ends with an error.
    """
    self._try(lambda: self._run.finish(exit_code=int(failed)))

  def _try(self, call: Callable[[], Any]) -> None:
    """Calls the service until it fails once; the run goes on without it."""
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


def _shown(value: Any) -> Any:
  """Returns nested settings without their secrets."""
  if isinstance(value, Mapping):
    return {name: _shown(part) for name, part in value.items()}
  if isinstance(value, list | tuple):
    return [_shown(part) for part in value]
  return without_secrets(value) if isinstance(value, str) else value
