"""Launchers, run with no variables but those that a test gives."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[2]


def launch(script, *arguments, **variables):
  """Runs a launcher with nothing but these variables and the basic tools."""
  return subprocess.run(
    [ROOT / "launch" / script, *arguments],
    env={"PATH": "/usr/bin:/bin", **variables},
    capture_output=True,
    text=True,
    timeout=60,
  )
