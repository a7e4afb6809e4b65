"""`status`: says from the files of a run how it is doing, without JAX."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Sequence

from time_jax.checkpoint import checksums, layout
from time_jax.config import changes
from time_jax.core.display import aligned_table, number
from time_jax.core.errors import (
  DAMAGED_JSON,
  EXIT_BAD_INPUT,
  EXIT_INTERRUPTED,
  EXIT_PREEMPTED,
  EXIT_RUN_FAILED,
  UserError,
  explain_refusal,
)
from time_jax.core.storage.atomic_file import read_json
from time_jax.core.storage.paths import Path
from time_jax.telemetry import history
from time_jax.telemetry.goodput import KINDS
from time_jax.telemetry.history import METRIC, Row

# A run counts as silent when its last record is older than this many times the
# usual time between two records, and older than this many seconds.
_SILENT_FACTOR = 10
_SILENT_SECONDS = 120.0
# Before its first record it gets more time, to start and to compile.
_START_SECONDS = 1800.0


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run has written down, and how it is doing by that.

  Attributes:
    rows: rows of its metrics; empty: there are none.
    sessions: starts and ends of its sessions; empty: there are none.
    num_steps: steps of the whole run; None: not known.
    changed: settings that change at steps.
    problems: what cannot be read.
    word: its state in one word, such as "running".
    detail: what that was concluded from.
    healthy: whether nobody has to look after it.
  """

  rows: list[Row]
  sessions: list[Row]
  num_steps: int | None
  changed: changes.Changes
  problems: list[str]
  word: str
  detail: str
  healthy: bool

  @property
  def step(self) -> int:
    """Returns the step of the last record."""
    return self.rows[-1]["step"] if self.rows else 0

  @property
  def progress(self) -> str:
    """Returns the step, of how many."""
    if not self.num_steps:
      return f"step {self.step:,}"
    share = self.step / self.num_steps
    return f"step {self.step:,} of {self.num_steps:,} ({share:.1%})"

  def values(self, name: str) -> list[float]:
    """Returns the recorded values of a metric, in the order of the steps."""
    return _values(self.rows, name)


def read(workdir: Path) -> Run:
  """Reads how a run is doing.

  Args:
    workdir: folder of a run, or of one of its students.

  Raises:
    UserError: see `layout.checkpoints_of`.
  """
  rows = history.read_metrics(workdir)
  sessions = history.read_sessions(workdir)
  num_steps, changed, problems = _read_config(workdir)
  for name in ("metrics.jsonl", "sessions.jsonl"):
    if bad := history.read_lines(workdir / name)[1]:
      problems.append(f"{bad} unreadable line(s) of {name} left out")
  saved = [int(folder.name) for folder in layout.step_folders(workdir)]
  over = bool(num_steps and saved and saved[-1] >= num_steps)
  state = _state(rows, sessions, over, time.time())
  return Run(rows, sessions, num_steps, changed, problems, *state)


def status_command(workdir: Path, plot: Path | None = None) -> int:
  """Prints progress, health, speed, losses and goodput of a run.

  Args:
    workdir: folder of a run of `distill`, which may still be going on, or of
      one of its students.
    plot: file to draw the losses into, as a PNG; None: no picture is drawn.

  Returns:
    The exit code: EXIT_RUN_FAILED if the run has failed or has been silent for
    too long, otherwise 0.

  Raises:
    UserError: the folder holds no run, or the picture cannot be written.
  """
  run = read(workdir)
  rows, sessions = run.rows, run.sessions
  if not rows and not sessions:
    raise UserError(
      f"no run in {workdir}: neither metrics.jsonl nor sessions.jsonl has a "
      "readable line; expected the --workdir of `time_jax distill`."
    )
  to_do = run.num_steps and run.num_steps - run.step
  lines = {
    "health": run.detail,
    "speed": _speed(rows, to_do, run.word == "running"),
    "goodput": _goodput(rows, sessions),
    "restarts": _restarts(sessions),
    "checkpoints": _checkpoints(workdir, rows),
    "skipped": _skipped(rows),
    "changes": "; ".join(changes.line(*c) for c in run.changed.items()),
    "note": "; ".join(run.problems),
  }
  print(f"{workdir}: {run.word}, {run.progress}")
  for name, text in lines.items():
    if text:
      print(f"  {name:<12} {text}")
  for line in _table(rows):
    print(f"  {line}".rstrip())
  if plot:
    _draw(workdir, plot)
  print(next_step(run.word, workdir))
  return 0 if run.healthy else EXIT_RUN_FAILED


def print_summary(workdir: Path, num_steps: int) -> None:
  """Draws the losses of a finished run, and prints a summary of it.

  Args:
    workdir: folder of the run; the picture is its `loss.png`.
    num_steps: number of steps of the run.
  """
  rows = history.read_metrics(workdir)
  history.plot_losses(workdir)
  print(f"Done: {num_steps} steps.")
  for key, name in (("train/loss", "training"), (METRIC, "held-out")):
    values = _values(rows, key)
    if len(values) > 1:
      print(f"  loss, {name} text: {values[0]:.4f} -> {values[-1]:.4f}")
  print(f"  curve: {workdir / 'loss.png'}")
  if (workdir / "profile").exists():
    print(f"  trace: {workdir / 'profile'}")
  then = "choose" if _values(rows, METRIC) else "export"
  print(f"Next: python -m time_jax {then} --workdir={workdir}")


def _read_config(
  workdir: Path,
) -> tuple[int | None, changes.Changes, list[str]]:
  """Returns a run's number of steps, its changes, and what is unreadable."""
  num_steps, changed, problems = None, {}, []
  try:
    train = read_json(workdir / "config.json")["train"]
    num_steps = int(train["num_steps"])
    changed = changes.parse(train.get("changes", ""))
  except (OSError, *DAMAGED_JSON) as error:
    problems = [f"config.json cannot be read ({type(error).__name__})"]
  return num_steps, changed, problems


def _values(rows: Sequence[Row], name: str) -> list[float]:
  """Returns the recorded values of a metric, in the order of the steps."""
  return [value for _, value in history.curve(rows, name)]


def _state(
  rows: Sequence[Row],
  sessions: Sequence[Row],
  over: bool,
  now: float,
) -> tuple[str, str, bool]:
  """Judges from the records of a run whether it is still going on.

  Args:
    rows: rows of its metrics.
    sessions: starts and ends of its sessions.
    over: whether there is a checkpoint of the run's last step.
    now: the current time, in Unix seconds.

  Returns:
    The state in one word, what it was concluded from, and whether the run is
    healthy.
  """
  last = sessions[-1] if sessions else {"event": "start"}
  if over and last.get("code") == EXIT_BAD_INPUT:
    return "done", f"all steps are done; refused since: {last.get('why')}", True
  if last["event"] == "end":
    when = f"{_duration(now - last['time'])} ago"
    code, why = last.get("code"), last.get("why", "")
    if code == 0:
      return "done", f"ended {when}", True
    if code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
      return "stopped", f"{why or 'stopped'} {when}; start it again", True
    return "failed", f"{why or f'exit code {code}'} ({when})", False
  times = _values(rows, "time/unix")
  if over:
    return "done", "all steps are done", True
  since = max([last.get("time", 0.0), *times[-1:]])
  if not since:
    return "unknown", "the files tell no times", True
  age = max(now - since, 0.0)
  gaps = [b - a for a, b in itertools.pairwise(times[-50:]) if b > a]
  usual = statistics.median(gaps) if gaps else 0.0
  fresh = not times or times[-1] <= last.get("time", 0.0)
  limit = (
    _START_SECONDS if fresh else max(_SILENT_SECONDS, _SILENT_FACTOR * usual)
  )
  text = f"last sign {_duration(age)} ago"
  if usual:
    text += f", usually every {_duration(usual)}"
  if age <= limit:
    return "running", text + (", starting" if fresh else ""), True
  return "silent", text + "; it hangs, was killed, or lost its host", False


def _speed(rows: Sequence[Row], to_do: int | None, running: bool) -> str:
  """Describes the last 20 records; estimates the time of the steps to do."""
  text, speed = "", 0.0
  for name, form in (
    ("steps_per_second", "{:.3g} steps/s"),
    ("tokens_per_second", ", {:,.0f} tokens/s"),
    ("input_wait", ", {:.0%} of it waiting for input"),
  ):
    if values := _values(rows, f"perf/{name}")[-20:]:
      median = statistics.median(values)
      speed = speed or median
      text += form.format(median)
  if running and to_do and speed > 0:
    text += f"; {_duration(to_do / speed)} left"
  return text


def _goodput(rows: Sequence[Row], sessions: Sequence[Row]) -> str:
  """Describes what the time since the run's first start was spent on."""
  known = [row for row in rows if isinstance(row.get("time/steps"), float)]
  if not known or not sessions:
    return ""
  total = known[-1].get("time/unix", 0.0) - sessions[0]["time"]
  if total <= 0:
    return ""
  spent = {kind: known[-1].get(f"time/{kind}", 0.0) for kind in KINDS}
  spent["lost or down"] = max(total - sum(spent.values()), 0.0)
  steps = spent.pop("steps")
  rest = ", ".join(
    f"{kind} {s / total:.1%}" for kind, s in spent.items() if s / total > 5e-4
  )
  return f"{steps / total:.1%} of {_duration(total)}; {rest}"


def _restarts(sessions: Sequence[Row]) -> str:
  starts = [row for row in sessions if row["event"] == "start"]
  if not starts:
    return ""
  last = dict.fromkeys(("devices", "kind", "processes"), "?") | starts[-1]
  where = "{devices} x {kind} in {processes} process(es)".format_map(last)
  return f"{len(starts) - 1}; last on {where}"


def _checkpoints(workdir: Path, rows: Sequence[Row]) -> str:
  """Describes a run's checkpoints, and the time that saving them took."""
  folders = layout.step_folders(workdir)
  text = "none"
  if folders:
    text = f"{len(folders)}, the newest of step {int(folders[-1].name):,}"
    # Those of older versions have no checksums.
    sealed = any(map(checksums.exist, folders))
    if why := sealed and checksums.find_damage(folders[-1], quick=True):
      text += f", which is damaged: {why}"
  if saving := _values(rows, "run/saving"):
    text += f"; {_duration(saving[-1])} of saving, beside the steps too"
  damaged = layout.checkpoints_of(workdir).run / layout.DAMAGED
  if count := len(list(damaged.glob("*"))):
    text += f"; {count} damaged in {damaged}"
  return text


def _skipped(rows: Sequence[Row]) -> str:
  """Counts the skipped steps; those whose loss or gradient jumped, as well."""
  skipped = _values(rows, "train/skipped")
  if not skipped or not skipped[-1]:
    return ""
  spikes = _values(rows, "train/spikes")
  return f"{skipped[-1]} steps" + (
    f", {spikes[-1]} of them spikes" if spikes else ""
  )


def _table(rows: Sequence[Row], lines: int = 8) -> list[str]:
  """Returns lines with the losses at evenly spaced steps."""
  train = dict(history.curve(rows, "train/loss"))
  held_out = dict(history.curve(rows, METRIC))
  steps = sorted(held_out or train)
  if not steps:
    return []
  places = {round(i * (len(steps) - 1) / (lines - 1)) for i in range(lines)}
  table = [["step", "training", "held-out"]]
  for step in [steps[i] for i in sorted(places)]:
    # The newest by then: training losses may be recorded at other steps.
    logged = [train[s] for s in sorted(train) if s <= step] or [None]
    losses = logged[-1], held_out.get(step)
    table.append([f"{step:,}", *(number(loss, ".4f") for loss in losses)])
  return ["", *aligned_table(table, ">").splitlines(), ""]


def _draw(workdir: Path, plot: Path) -> None:
  try:
    drawn = history.plot_losses(workdir, plot)
  except OSError as error:
    raise UserError(
      f"cannot write --plot={plot}: {explain_refusal(error)}; expected a file "
      "in a folder with write permission."
    ) from error
  print(f"  plot         {drawn or 'no losses yet'}")


def next_step(word: str, workdir: Path) -> str:
  """Returns what to do next, as a line.

  Args:
    word: state of the run, see `Run`.
    workdir: folder of the run, or of one of its students.
  """
  if word == "done":
    return f"Next: python -m time_jax choose --workdir={workdir}"
  if word in ("running", "unknown"):
    return f"Next: python -m time_jax status {workdir}"
  return "Next: the command of the run again; it goes on where it was."


def _duration(seconds: float) -> str:
  """Returns seconds in the largest unit of which there are at least two."""
  for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
    if seconds >= 2 * size:
      return f"{seconds / size:.1f} {unit}"
  return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"
