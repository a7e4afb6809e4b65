"""Commands in the test's own process, which joins no others.

This spares them the imports of a process of their own.
"""

import contextlib
import io
import os

import pytest
from meshes import make_mesh

from time_jax.cli import main
from time_jax.parallel import launcher_env, processes, sharding


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


def run(*argv) -> str:
  """Returns what a command prints, run on one device; it must succeed."""
  mesh = make_mesh(1, 1, 1)
  output = io.StringIO()
  with pytest.MonkeyPatch.context() as patch:
    stay_alone(patch)
    patch.setattr(sharding, "make_mesh", lambda **sizes: mesh)
    with contextlib.redirect_stdout(output):
      assert main.main([str(word) for word in argv]) == 0
  return output.getvalue()
