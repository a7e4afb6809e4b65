"""Runs in the test's own process, which joins no others."""

import os

from time_jax.parallel import launcher_env, processes


def stay_alone(patch):
  """A process can join others only once, and only before it uses JAX.

  Text is prepared in this process, too: it is little.
  """
  spec = launcher_env.ProcessSpec("alone", "localhost:1", 1, 0)
  for name in ("initialize", "join"):
    patch.setattr(processes, name, lambda: spec)
  patch.setattr(processes, "hear_signals", lambda: None)
  patch.setattr(processes, "preempted", lambda: False)
  patch.setattr(os, "sched_getaffinity", lambda pid: {0})
