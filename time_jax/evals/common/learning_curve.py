"""Draws how a model learned its task, epoch by epoch."""

from collections.abc import Mapping, Sequence

from time_jax.core.storage.paths import Path
from time_jax.telemetry import history

FILE = "learning_curve.png"


def plot_learning(
  workdir: Path,
  epochs: Sequence[Mapping[str, float]],
  *,
  best: int,
  metrics: Sequence[str],
  steps: int,
) -> Path:
  """Draws the training loss and the dev scores of a seed as a PNG.

  Args:
    workdir: folder of the seed, which gets the file.
    epochs: scores of every epoch, by "dev/" and the metric.
    best: the epoch that is kept, from 1.
    metrics: the metrics to draw.
    steps: number of steps of an epoch.

  Returns:
    The path of the file.
  """
  # Imported here: matplotlib is slow to load and only the end needs it.
  from matplotlib.figure import Figure
  from matplotlib.ticker import MaxNLocator

  figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
  above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
  loss = history.curve(history.read_metrics(workdir), "train/loss")
  if loss:
    done, values = zip(*loss, strict=True)
    above.plot([step / steps for step in done], values, color="black")
  above.set(ylabel="training loss")
  numbers = range(1, len(epochs) + 1)
  for metric in metrics:
    scores = [epoch.get(f"dev/{metric}") for epoch in epochs]
    if any(score is not None for score in scores):
      nan = float("nan")  # Undefined there: the line has a gap.
      values = [nan if score is None else score for score in scores]
      below.plot(numbers, values, marker="o", markersize=4, label=metric)
  for axes in (above, below):
    axes.axvline(best, color="gray", linestyle="--", linewidth=1)
    axes.grid(alpha=0.3)
  below.plot([], [], color="gray", linestyle="--", label=f"kept: epoch {best}")
  below.set(xlabel="epoch", ylabel="dev, percent")
  below.xaxis.set_major_locator(MaxNLocator(integer=True))
  below.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
  path = workdir / FILE
  figure.savefig(path, format="png")
  return path
