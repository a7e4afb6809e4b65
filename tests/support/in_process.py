"""Commands run in the process of the tests, which spares them all imports."""

import contextlib
import io
import os

import pytest
from meshes import make_mesh

from time_jax.cli import main
from time_jax.parallel import launcher_env, processes, sharding


def run(*argv) -> str:
  """Output of a command, run by this process alone and on one device."""
  alone = launcher_env.ProcessSpec("alone", "localhost:1", 1, 0)
  mesh = make_mesh(1, 1, 1)
  changes = (
    (processes, "initialize", lambda: alone),
    (processes, "join", lambda: alone),
    (processes, "hear_signals", lambda: None),
    (processes, "preempted", lambda: False),
    (sharding, "make_mesh", lambda **sizes: mesh),
    # No processes to tokenize text that one has tokenized before they start.
    (os, "sched_getaffinity", lambda pid: {0}),
  )
  output = io.StringIO()
  with pytest.MonkeyPatch.context() as patch:
    for place, name, value in changes:
      patch.setattr(place, name, value)
    with contextlib.redirect_stdout(output):
      assert main.main([str(word) for word in argv]) == 0
  return output.getvalue()
