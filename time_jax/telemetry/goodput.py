"""Where the time of a run goes: over all its restarts, and just now."""

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

# What a second can be spent on. Only "steps" brings the run forward; the rest
# of the wall time, which no kind has, was lost or spent not running at all.
KINDS = ("steps", "input", "compile", "evaluation", "checkpoint", "startup")
_END: Any = object()


class Ledger:
  """Adds up the seconds of a run by kind; each moment has exactly one kind.

  The sums are in every row of metrics that is written, so that they go back
  with it to the checkpoint that a killed run continues from.
  """

  def __init__(self) -> None:
    """Starts to count, with "startup"."""
    self.started = time.time()
    self._first_start, self._restarts, self._saved = self.started, 0, 0.0
    self._sums = dict.fromkeys(KINDS, 0.0)
    self._kind = "startup"
    self._since = time.perf_counter()

  def resume(
    self, rows: Sequence[Mapping[str, Any]], starts: Sequence[float]
  ) -> None:
    """Adds what earlier sessions of the run had spent.

    Args:
      rows: metrics of the run, as far as they are kept.
      starts: when it was started (Unix seconds), this time included.
    """
    self._first_start = min([self.started, *starts])
    self._restarts = max(len(starts) - 1, 0)
    known = [row for row in rows if f"time/{KINDS[0]}" in row]
    last = known[-1] if known else {}
    for kind in KINDS:
      self._sums[kind] += last.get(f"time/{kind}", 0.0)
    self._saved += last.get("run/saving", 0.0)

  @contextlib.contextmanager
  def doing(self, kind: str) -> Generator[None, None, None]:
    """Counts the block as time of one kind, then goes on with the kind before.

    Args:
      kind: one of `KINDS`.
    """
    before = self._kind
    self._turn(kind)
    try:
      yield
    finally:
      self._turn(before)

  def timed(self, items: Iterator[Item]) -> Iterator[Item]:
    """Passes items on, and counts the time of waiting for them as "input"."""
    while True:
      with self.doing("input"):
        item = next(items, _END)
      if item is _END:
        return
      yield item

  def seconds(self, kind: str) -> float:
    """Returns the seconds of one kind until now."""
    self._turn(self._kind)
    return self._sums[kind]

  def row(self, saving: float = 0.0) -> dict[str, float]:
    """Returns the sums until now as metrics.

    Args:
      saving: seconds of this session in which a checkpoint was being written,
        mostly while steps were made.

    Returns:
      "time/unix" (Unix seconds), "time/KIND" (seconds), "run/goodput" (the part
      of the wall time since the first start that went into steps),
      "run/restarts", and "run/saving" (seconds, of all sessions).
    """
    self._turn(self._kind)
    now = time.time()
    sums = {f"time/{kind}": round(s, 3) for kind, s in self._sums.items()}
    wall = now - self._first_start
    return {
      "time/unix": round(now, 3),
      **sums,
      "run/goodput": round(self._sums["steps"] / wall, 4),
      "run/restarts": self._restarts,
      "run/saving": round(self._saved + saving, 3),
    }

  def _turn(self, kind: str) -> None:
    now = time.perf_counter()
    self._sums[self._kind] += now - self._since
    self._since, self._kind = now, kind


class Throughput:
  """Measures the speed between two records, and the share of waiting."""

  def __init__(self, ledger: Ledger) -> None:
    """Starts the clock.

    Args:
      ledger: ledger of the run, which counts the time of waiting for input.
    """
    self._ledger = ledger
    self.restart()

  def restart(self) -> None:
    """Starts anew: after a record, an evaluation, a compilation."""
    self._start = time.perf_counter()
    self._waited = self._ledger.seconds("input")
    self._steps = self._tokens = 0

  def count(self, tokens: int) -> None:
    """Counts a step whose results are there.

    A step that was only started counts later: it would count in an interval in
    which it does not end.

    Args:
      tokens: real tokens of the step, without padding.
    """
    self._steps += 1
    self._tokens += tokens

  def read(self, devices: int) -> dict[str, float]:
    """Returns the metrics since the last restart.

    Args:
      devices: number of devices that share the work.

    Returns:
      Steps and real tokens per second, and the share of time spent waiting for
      input; nothing if no step was counted.
    """
    if not self._steps:  # Two records at once, at a stop: one has the speed.
      return {}
    seconds = time.perf_counter() - self._start
    rate = self._tokens / seconds
    waited = self._ledger.seconds("input") - self._waited
    return {
      "perf/steps_per_second": self._steps / seconds,
      "perf/tokens_per_second": rate,
      "perf/tokens_per_second_per_device": rate / devices,
      "perf/input_wait": waited / seconds,
    }
