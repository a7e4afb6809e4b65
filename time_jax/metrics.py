"""What a run tells: metrics.jsonl, TensorBoard, a progress bar, a plot."""

import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import tensorboardX
import tqdm

Item = TypeVar("Item")
Scalars = dict[str, float | int]


class Recorder:
  """Writes a run's scalars; in a resumed run, as if it had never stopped.

  A context manager. Only process 0 has one that is `active`; the others'
  calls do nothing.
  """

  def __init__(
    self, workdir: pathlib.Path, step: int, num_steps: int, active: bool
  ) -> None:
    """Opens the files, dropping what lies behind `step`: it will come again.

    Args:
      workdir: of the run.
      step: steps done so far.
      num_steps: of the whole run.
      active: whether this process writes.
    """
    self._active = active
    if not active:
      return
    self._path = workdir / "metrics.jsonl"
    # From step 0 the run starts anew, its first evaluation included.
    kept = [r for r in read_metrics(workdir) if step and r["step"] <= step]
    _write_rows(self._path, kept)
    self._file = self._path.open("a", encoding="utf-8")
    self._board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=step + 1 if step else 0
    )
    self._bar = tqdm.tqdm(
      initial=step,
      total=num_steps,
      unit="step",
      disable=not sys.stderr.isatty(),
      dynamic_ncols=True,
    )

  def __enter__(self) -> "Recorder":
    return self

  def __exit__(self, *exception: object) -> None:
    if self._active:
      self._bar.close()
      self._board.close()
      self._file.close()

  def advance(self) -> None:
    """Moves the bar by one step."""
    if self._active:
      self._bar.update()

  def write(self, step: int, scalars: Mapping[str, float | int]) -> None:
    """Records the scalars of a step, and shows the telling ones in the bar."""
    if not self._active:
      return
    self._file.write(json.dumps({"step": step, **scalars}) + "\n")
    self._file.flush()
    for name, value in scalars.items():
      self._board.add_scalar(name, value, step)
    self._bar.set_postfix_str(_short(scalars))

  def say(self, text: str) -> None:
    """Prints a line without tearing the bar."""
    if self._active:
      tqdm.tqdm.write(text, file=sys.stderr)
      sys.stderr.flush()


def _short(scalars: Mapping[str, float | int]) -> str:
  shown = {
    "train/loss": "loss {:.4f}",
    "train/kl_qq": "qq {:.3f}",
    "train/kl_kk": "kk {:.3f}",
    "train/kl_vv": "vv {:.3f}",
    "train/learning_rate": "lr {:.1e}",
    "perf/tokens_per_second": "{:,.0f} tok/s",
    "perf/input_wait": "wait {:.0%}",
    "eval/relation_loss": "eval {:.4f}",
  }
  return " ".join(
    text.format(scalars[name])
    for name, text in shown.items()
    if name in scalars
  )


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
  """All rows of a run's metrics.jsonl; a torn last line is left out."""
  path = workdir / "metrics.jsonl"
  rows = []
  if path.exists():
    for line in path.read_text(encoding="utf-8").splitlines():
      try:
        rows.append(json.loads(line))
      except ValueError:
        continue  # The run was killed in the middle of this line.
  return rows


def _write_rows(path: pathlib.Path, rows: Sequence[dict[str, float]]) -> None:
  fresh = path.with_suffix(".tmp")
  fresh.write_text("".join(json.dumps(row) + "\n" for row in rows))
  fresh.replace(path)


class Meter:
  """Speed between two records: real tokens per second, share spent waiting."""

  def __init__(self) -> None:
    """Starts the clock."""
    self.restart()

  def restart(self) -> None:
    """Forgets; called after a record, an evaluation, a compilation."""
    self._start = time.perf_counter()
    self._steps = 0
    self._waited = 0.0

  def timed(self, items: Iterator[Item]) -> Iterator[Item]:
    """Passes items on, counting the time that each one lets us wait."""
    while True:
      before = time.perf_counter()
      try:
        item = next(items)
      except StopIteration:
        return
      self._waited += time.perf_counter() - before
      self._steps += 1
      yield item

  def read(self, tokens_per_step: float, devices: int) -> Scalars:
    """Scalars since the last restart.

    Args:
      tokens_per_step: real tokens of a step, padding left out.
      devices: that share the work.
    """
    if not self._steps:  # Two records at once, at a stop: one has the speed.
      return {}
    seconds = time.perf_counter() - self._start
    rate = tokens_per_step * self._steps / seconds
    return {
      "perf/steps_per_second": self._steps / seconds,
      "perf/tokens_per_second": rate,
      "perf/tokens_per_second_per_device": rate / devices,
      "perf/input_wait": self._waited / seconds,
    }


def plot_losses(workdir: pathlib.Path) -> pathlib.Path | None:
  """Draws the training and held-out relation loss; None if there is nothing.

  Args:
    workdir: of the run; gets `loss.png`.
  """
  rows = read_metrics(workdir)
  names = {"train/loss": "training", "eval/relation_loss": "held-out text"}
  if not any(name in row for row in rows for name in names):
    return None
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure
  from matplotlib.ticker import ScalarFormatter

  figure = Figure(figsize=(7, 4), layout="constrained")
  axes = figure.subplots()
  for name, label in names.items():
    points = [(row["step"], row[name]) for row in rows if name in row]
    marker = "o" if name.startswith("eval") else None
    if points:
      axes.plot(*zip(*points, strict=True), label=label, marker=marker)
  axes.set(xlabel="step", ylabel="relation loss", yscale="log")
  for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
    axis(ScalarFormatter())
  axes.grid(alpha=0.3, which="both")
  axes.legend()
  path = workdir / "loss.png"
  figure.savefig(path, dpi=120)
  return path
