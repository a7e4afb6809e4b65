"""The loop: it never waits for a step that it has just started."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saving
from tiny_recipe import get_config

from time_jax.core.errors import RunError
from time_jax.parallel import processes
from time_jax.run import distill, distillation, loop, students
from time_jax.run.job import Calendar, Job
from time_jax.step import machine
from time_jax.telemetry import goodput, history


class Lazy:
  """A scalar of a step, which tells when somebody waits for it."""

  def __init__(self, value, look):
    self.value, self.look = value, look

  def __int__(self):
    self.look()
    return int(self.value)

  def __array__(self, dtype=None, copy=None):
    self.look()
    return np.asarray(self.value, dtype)


@pytest.mark.usefixtures("one_process", "one_device")
def test_results_are_looked_at_two_steps_late(tiny, tmp_path, monkeypatch):
  """But for stops, before which all are."""
  events = []
  make_parallel = distillation.make_parallel

  def make_lazy(*arguments):
    how = make_parallel(*arguments)

    def step(*inputs):
      number = 1 + sum(kind == "step" for kind, _ in events)
      events.append(("step", number))

      def look():
        if events[-1] != ("look", number):
          events.append(("look", number))

      states, scalars = how.step(*inputs)
      return states, {
        student: {name: Lazy(x, look) for name, x in own.items()}
        for student, own in scalars.items()
      }

    return dataclasses.replace(how, step=step)

  monkeypatch.setattr(distillation, "make_parallel", make_lazy)
  config = get_config(tiny)
  config.train.num_steps = 8
  config.eval.every = 6
  config.checkpoint.every = config.checkpoint.keep_every = 100
  assert distill.distill(config, tmp_path) == 0
  assert " ".join(f"{kind} {number}" for kind, number in events) == (
    "step 1 step 2 step 3 look 1 step 4 look 2 step 5 look 3 step 6 look 4 "
    # At a stop tokens first: what is pending is one interval.
    "look 5 look 6 look 5 look 6 "
    "step 7 step 8 look 7 look 8 look 7 look 8"
  )


@dataclasses.dataclass(frozen=True)
class State:
  step: jax.Array
  params: jax.Array
  skipped_in_a_row: int = 0


class Counting(Job):
  """Two students, whose parameters count their steps and twice their steps."""

  def __init__(self, workdir):
    self.workdir, self.ledger = workdir, goodput.Ledger()
    self.folders = {name: workdir / name for name in ("a", "b")}
    for folder in self.folders.values():
      folder.mkdir(parents=True, exist_ok=True)
    self.calendar = Calendar(
      num_steps=5, eval_every=2, save_every=(3,), log_every=(1,)
    )
    self.events = []

  def start(self):
    zero = jnp.zeros(())
    return {name: State(zero, zero) for name in ("a", "b")}

  def batch_at(self, done):
    return {"a": done + 1, "b": 2 * done + 2}

  def place(self, batch):
    return batch

  def step(self, step, states, batch):
    self.events.append(f"step {step}")
    states = {
      name: State(
        state.step + 1,
        jnp.asarray(batch[name], jnp.float32),
        self.skipped(name, step),
      )
      for name, state in states.items()
    }
    return states, {
      name: {
        "train/loss": state.params,
        "train/skipped_in_a_row": state.skipped_in_a_row,
      }
      for name, state in states.items()
    }

  def skipped(self, name, step):
    return 0

  def reason_to_end(self, name, step, skipped_in_a_row):
    return f"{skipped_in_a_row} skipped." if skipped_in_a_row > 1 else ""

  def advice(self, names, saved):
    return f"{sorted(names)} {saved}"

  def lacks_evaluation(self, done):
    return []

  def evaluate(self, states, watch):
    self.events.append(f"evaluate {' '.join(states)}")
    watch()
    return {n: {history.METRIC: float(s.params)} for n, s in states.items()}

  def describe_scores(self, step, scores):
    return ""

  def trees(self, step, states):
    self.events.append("save")
    return students.join(
      {name: {"params": {"w": s.params}} for name, s in states.items()}
    )

  def metadata(self, states):
    return {}


def losses(job, name):
  rows = history.read_metrics(job.folders[name])
  return [row["train/loss"] for row in rows if "train/loss" in row]


def test_order_of_operations_with_two_students(
  tmp_path, monkeypatch, one_process
):
  job = Counting(tmp_path)
  with saving.open_in(tmp_path) as checkpoints:
    states = job.start()
    assert loop.train(job, states, checkpoints, beat=lambda: None)
  kept = tmp_path / "checkpoints" / "5"
  assert {"a.params", "b.params"} <= {path.name for path in kept.iterdir()}
  saved = "evaluate a b save"
  assert " ".join(job.events) == (
    f"step 1 step 2 {saved} step 3 save step 4 {saved} step 5 {saved}"
  )
  assert losses(job, "a") == [1, 2, 3, 4, 5]
  assert losses(job, "b") == [2, 4, 6, 8, 10]

  # Asked after each step and in each evaluation: the last time in that of
  # step 4.
  answers = iter([False] * 5 + [True])
  monkeypatch.setattr(processes, "preempted", lambda: next(answers))
  job = Counting(tmp_path / "stopped")
  with saving.open_in(job.workdir) as checkpoints:
    states = job.start()
    assert not loop.train(job, states, checkpoints, beat=lambda: None)
  assert saving.steps_in(job.workdir)[-1] == 4
  assert job.events[-3:] == ["step 4", "evaluate a b", "save"]


class Skipping(Counting):
  """A student, or each of them, skips all steps from one on."""

  def __init__(self, workdir, **first):
    super().__init__(workdir)
    self.first = first or {"b": 2}

  def skipped(self, name, step):
    return max(step + 1 - self.first.get(name, 100), 0)

  def end(self, name, step, reason):
    self.events.append(f"end {name} {step}")


def test_a_student_that_skips_too_much_ends_alone(
  tmp_path, one_process, capsys
):
  job = Skipping(tmp_path)
  with saving.open_in(tmp_path) as checkpoints:
    assert loop.train(job, job.start(), checkpoints, beat=lambda: None)
  assert " ".join(job.events) == (
    # All is read before a save, else two steps late; a step at 3 is judged.
    "step 1 step 2 evaluate a b save step 3 end b 3 save step 4 evaluate a "
    "save step 5 evaluate a save"
  )
  assert losses(job, "a") == [1, 2, 3, 4, 5]
  assert losses(job, "b") == [2, 4]
  told = capsys.readouterr().err
  assert "b: 2 skipped. It is kept as it is from here on; a go on." in told
  names = {path.name for path in (tmp_path / "checkpoints" / "5").iterdir()}
  assert {"a.params", "b.params"} <= names


def test_a_student_that_has_ended_is_known_again(tmp_path, one_process):
  job = Skipping(tmp_path)
  states = job.start()
  one = jnp.asarray(3.0)
  states = {"a": State(one, one), "b": State(one, one, 2)}
  with saving.open_in(tmp_path) as checkpoints:
    assert loop.train(job, states, checkpoints, beat=lambda: None)
  assert job.events[0] == "end b 3" and "evaluate a" in job.events
  assert losses(job, "b") == []


def test_a_change_reaches_a_student_that_has_ended(tmp_path, one_process):
  """What it consists of follows the settings; it may go on by them."""
  job = Skipping(tmp_path)
  job.notice = lambda done: "a change" if done == 4 else ""

  def refit(done, states):
    job.events.append(f"refit {' '.join(states)} after {done}")
    return {name: State(s.step, s.params, 0) for name, s in states.items()}

  job.refit = refit
  job.go_on = lambda name: job.events.append(f"go on {name}")
  with saving.open_in(tmp_path) as checkpoints:
    assert loop.train(job, job.start(), checkpoints, beat=lambda: None)
  assert " ".join(job.events).endswith(
    "save refit b after 4 go on b step 5 end b 5 evaluate a save"
  )


def test_the_run_ends_with_its_last_student(tmp_path, one_process):
  job = Skipping(tmp_path, a=3, b=3)  # At one step: nobody ends before.
  with saving.open_in(tmp_path) as checkpoints:
    words = "a: 2 skipped. b: 2 skipped. .* 3 .*'a', 'b'.* 3"
    with pytest.raises(RunError, match=words):
      loop.train(job, job.start(), checkpoints, beat=lambda: None)
  assert not [event for event in job.events if event.startswith("end")]


def test_tokens_of_all_steps_between_two_records_count(monkeypatch):
  """Not those of the last one, as often as there were steps."""
  fake = types.SimpleNamespace
  ticks = iter(range(0, 100, 10))
  clock = fake(perf_counter=lambda: next(ticks))
  monkeypatch.setattr(goodput, "time", clock)
  rows = []
  train = loop._Loop(
    job=fake(
      calendar=Calendar(6, None, (), (3,)),
      tells_speed=True,
      reason_to_end=lambda name, step, skipped: "",
      ledger=fake(row=lambda saving: {}),
    ),
    checkpoints=fake(seconds=0.0),
    recorder=fake(write=lambda step, row: rows.append(row["student"])),
    tracer=None,
    profile=range(0),
    beat=lambda: None,
    throughput=goodput.Throughput(fake(seconds=lambda kind: 0.0)),
  )
  for step, tokens in enumerate((500, 100, 40, 8, 2, 1), 1):
    scalars = {"train/skipped_in_a_row": 0, "data/tokens": np.int32(tokens)}
    train._read([(step, {"student": scalars})])
  assert [row["data/tokens"] for row in rows] == [40, 1]
  assert [row["perf/tokens_per_second"] for row in rows] == [64.0, 1.1]
  assert [row["perf/steps_per_second"] for row in rows] == [0.3, 0.3]


def test_compiled_programs_are_kept_unless_told_where(monkeypatch, tmp_path):
  def folder():
    machine.use_compilation_cache()
    return jax.config.jax_compilation_cache_dir

  before = jax.config.jax_compilation_cache_dir
  try:
    assert folder() == before  # Named by JAX_COMPILATION_CACHE_DIR.
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == str(tmp_path / ".cache" / "time_jax" / "compiled")
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_tracker_is_closed_where_the_run_cannot_begin(tmp_path, one_process):
  closed = []
  job = Counting(tmp_path)

  def begin(done, states):
    raise MemoryError

  def close(failed):
    closed.append(failed)

  job.begin = begin
  with saving.open_in(tmp_path) as checkpoints, pytest.raises(MemoryError):
    loop.train(
      job,
      job.start(),
      checkpoints,
      beat=lambda: None,
      trackers={"a": types.SimpleNamespace(close=close)},
    )
  assert closed == [True]
