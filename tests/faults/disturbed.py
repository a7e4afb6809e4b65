"""`python -m time_jax` with faults built in, each at a place and a moment.

FAULTS="PLACE:COUNT[:SIGNAL],...": at the COUNT-th time that this process is
at a place, it sends itself the signal. The places are keys of `PLACES`.
Without a signal: "nan:STEP", loss and gradient of that step are NaN;
"spike:STEP", they are a hundred times as large; with ":NAME" those of one
student alone;
"full:COUNT", the disk is full from that save on; "rows:COUNT", the rows of that
batch are damaged; "lost:COUNT", from that batch on no row can be read;
"elsewhere:SECONDS", this is another machine, and leases expire after so many.
VICTIM is the index of the only process of the run that has the faults.
"""

import contextlib
import dataclasses
import errno
import os
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp

from time_jax.checkpoint import checksums
from time_jax.cli import main as cli_main
from time_jax.core.errors import UserError
from time_jax.core.storage import holder, lease
from time_jax.data import pipeline, prepare
from time_jax.run import corpus, distillation, loop
from time_jax.step import train_step

_struck = threading.Event()


class Fault:
  """Strikes at the count-th call."""

  def __init__(self, count, number):
    self.left = count
    self.number = number

  def __call__(self, after=0.0):
    self.left -= 1
    if self.left == 0:
      threading.Timer(after, self.strike).start() if after else self.strike()

  def strike(self):
    _struck.set()
    print("disturbed: now", file=sys.stderr, flush=True)
    os.kill(os.getpid(), self.number)


def in_step(fault, after=0.0):
  make = distillation.make_parallel

  def make_parallel(*args):
    how = make(*args)

    def step(*args):
      fault(after)
      return how.step(*args)

    return dataclasses.replace(how, step=step)

  distillation.make_parallel = make_parallel


def go_slowly_afterwards():
  """JAX takes about a second to hear of SIGTERM: the run must not be over."""
  in_step(lambda after: time.sleep(0.2) if _struck.is_set() else None)


def in_compilation(fault):
  in_step(fault, after=0.2)


def in_save(fault):
  """In the thread that saves, before the folder gets its name."""
  write = checksums.write

  def strike_first(folder):
    fault()
    write(folder)

  checksums.write = strike_first


def in_evaluation(fault):
  batches_of = corpus.evaluation_batches

  def batches(*args):
    for number, batch in enumerate(batches_of(*args)):
      if number == 1:
        fault()
      yield batch

  corpus.evaluation_batches = batches


def in_preparation(fault):
  in_order = prepare.workers.in_order

  def disturbed(*args):
    for result in in_order(*args):
      fault()
      yield result

  prepare.workers.in_order = disturbed


def with_factor(number, factor, student=None):
  """Loss and gradient of a step are so many times as large, of one or all."""
  step, gradients = train_step.train_step, train_step.gradients
  now = []

  def remember(states, *args, **kwargs):
    now[:] = [next(iter(states.values())).step]
    return step(states, *args, **kwargs)

  def spoil(*args):
    results = gradients(*args)
    times = jnp.where(now[0] == number - 1, factor, 1.0)
    # An ended student takes no part any more.
    for name in results.keys() & {student} if student else list(results):
      grads, loss, parts = results[name]
      grads = jax.tree.map(lambda g: g * times, grads)
      results[name] = grads, loss * times, parts
    return results

  train_step.train_step, train_step.gradients = remember, spoil


def fill_disk(count):
  """At the count-th save: as if others had filled it meanwhile."""
  save, calls = loop.CheckpointWriter.save, []

  def save_on_a_full_disk(self, *args, **kwargs):
    calls.append(1)
    if len(calls) == count:
      place = self._folder.parent / "ballast"
      for size in (1 << 20, 1 << 12, 1):
        with contextlib.suppress(OSError), place.open("ab", 0) as file:
          while file.write(bytes(size)) == size:
            pass
    save(self, *args, **kwargs)

  loop.CheckpointWriter.save = save_on_a_full_disk


FACTORS = {"nan": jnp.nan, "spike": 100.0}


def damage_rows(count):
  """Of this process alone."""
  batch_at = pipeline.BatchSource.batch_at

  def damaged(self, step):
    if step == count:
      raise UserError("rows are damaged here.")
    return batch_at(self, step)

  pipeline.BatchSource.batch_at = damaged


def lose_storage(count):
  """The files are whole, but the disk does not give them."""
  open_source, calls = pipeline.tfds.data_source, []

  class Lost:
    def __init__(self, *args, **kwargs):
      self.rows = open_source(*args, **kwargs)

    def __len__(self):
      return len(self.rows)

    def __getitems__(self, indices):
      calls.append(1)
      if len(calls) >= count:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
      return self.rows.__getitems__(indices)

  pipeline.tfds.data_source = Lost


def be_elsewhere(seconds):
  """On another machine, where leases expire after so many seconds."""
  lease.EXPIRES_AFTER = seconds
  holder.socket.gethostname = lambda: "far"


PLACES = {
  "step": in_step,
  "compilation": in_compilation,
  "save": in_save,
  "evaluation": in_evaluation,
  "preparation": in_preparation,
}


def main():
  faults = os.environ.get("FAULTS", "")
  mine = os.environ.get("TIME_JAX_PROCESS_ID", "0") == os.environ.get(
    "VICTIM", "0"
  )
  for fault in filter(None, faults.split(",")):
    place, count, *number = fault.split(":")
    if place in FACTORS:
      with_factor(int(count), FACTORS[place], *number)
    elif place == "full":
      fill_disk(int(count))
    elif place == "elsewhere":
      be_elsewhere(int(count))
    elif mine and place == "rows":
      damage_rows(int(count))
    elif mine and place == "lost":
      lose_storage(int(count))
    elif mine:
      PLACES[place](Fault(int(count), getattr(signal, number[0])))
  go_slowly_afterwards()
  sys.exit(cli_main.main(sys.argv[1:]))


if __name__ == "__main__":
  main()
