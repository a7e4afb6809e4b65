"""What the loop trains: a `Job`, which says what happens, and its calendar."""

import abc
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from time_jax.core.storage.paths import Path
from time_jax.telemetry.goodput import Ledger

States = dict[str, Any]  # by student
StepMetrics = Mapping[str, Mapping[str, Any]]  # scalars by name, by student
Scores = dict[str, dict[str, float]]  # of an evaluation, by student


@dataclasses.dataclass(frozen=True)
class Calendar:
  """The steps, counted from 1, at which something happens besides the step.

  Attributes:
    num_steps: steps of the whole run.
    eval_every: the state is evaluated at multiples of this number and at the
      last step; None: it is never evaluated.
    save_every: the state is saved at multiples of each of these numbers, after
      each evaluation and at the last step.
    log_every: metrics are recorded at multiples of each of these numbers.
  """

  num_steps: int
  eval_every: int | None
  save_every: Sequence[int]
  log_every: Sequence[int]

  def evaluates(self, step: int) -> bool:
    """Returns whether the state is evaluated after a step."""
    if self.eval_every is None:
      return False
    return step % self.eval_every == 0 or step == self.num_steps

  def saves(self, step: int) -> bool:
    """Returns whether the state is saved after a step."""
    due = any(step % every == 0 for every in self.save_every)
    return due or self.evaluates(step) or step == self.num_steps

  def logs(self, step: int) -> bool:
    """Returns whether the metrics of a step are recorded."""
    return any(step % every == 0 for every in self.log_every)


class Job(abc.ABC):
  """Defines what is trained: batches, steps, scores and checkpoints.

  States, metrics and scores are by the names of the students. Those that have
  ended are frozen: they are saved with the others, and nothing else.

  Attributes:
    workdir: folder of the run.
    folders: where the records of each student are.
    calendar: when the state is evaluated, saved and recorded.
    ledger: adds up how the time is spent.
    tells_speed: whether the metrics tell speed and goodput.
    prefetch: number of batches that are prepared ahead.
  """

  workdir: Path
  folders: Mapping[str, Path]
  calendar: Calendar
  ledger: Ledger
  tells_speed: bool = False
  prefetch: int = 2

  def begin(self, done: int, states: States) -> States:
    """Returns the states after `done` steps as `step` takes them."""
    del done
    return states

  @abc.abstractmethod
  def batch_at(self, done: int) -> Any:
    """Returns the batch after `done` steps, on the host."""

  @abc.abstractmethod
  def place(self, batch: Any) -> Any:
    """Returns a batch as `step` takes it, on the devices."""

  @abc.abstractmethod
  def step(
    self, step: int, states: States, batch: Any
  ) -> tuple[States, StepMetrics]:
    """Starts a step, counted from 1, and returns without waiting for it."""

  def notice(self, done: int) -> str:
    """Returns a line to print after `done` steps; empty: there is none."""
    del done
    return ""

  @abc.abstractmethod
  def reason_to_end(self, name: str, step: int, skipped_in_a_row: int) -> str:
    """Returns why skipped steps end a student; empty: it goes on."""

  def end(self, name: str, step: int, reason: str) -> None:
    """Takes note that a student has ended, and that others go on."""
    del name, step, reason

  def earlier_reason(self, name: str) -> str:
    """Returns why a student ended in an earlier session."""
    del name
    return "it had skipped too many steps in a row."

  def refit(self, done: int, states: States) -> States:
    """Returns states of students that have ended, at a notice.

    What they consist of follows the settings, as that of all others does.

    Args:
      done: number of steps so far.
      states: their states.
    """
    del done
    return states

  def go_on(self, name: str) -> None:
    """Takes note that a student that had ended goes on after all."""
    del name

  @abc.abstractmethod
  def advice(self, names: Collection[str], saved: int) -> str:
    """Says how to go on where students have ended.

    Args:
      names: those students.
      saved: step of the newest checkpoint.
    """

  @abc.abstractmethod
  def lacks_evaluation(self, done: int) -> Collection[str]:
    """Returns whose state after `done` steps is still to be evaluated."""

  @abc.abstractmethod
  def evaluate(self, states: States, watch: Callable[[], None]) -> Scores:
    """Returns the scores of the states; calls `watch` after every batch."""

  @abc.abstractmethod
  def describe_scores(self, step: int, scores: Scores) -> str:
    """Returns a line to print that shows the scores."""

  @abc.abstractmethod
  def trees(self, step: int, states: States) -> dict[str, Any]:
    """Returns what a checkpoint of a step holds: pytrees of arrays by name."""

  @abc.abstractmethod
  def metadata(self, states: States) -> dict[str, Any]:
    """Returns what a checkpoint records of itself, as JSON values."""

  def is_over(self) -> bool:
    """Returns whether the run ends before its last step."""
    return False
