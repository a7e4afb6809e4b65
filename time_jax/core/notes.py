"""Notes to the user on stderr, for what is no error but worth a line."""

import functools
import sys


@functools.cache  # Said once, however often the same thing is read.
def note(text: str) -> None:
  """Prints a note, once in a process.

  Args:
    text: a sentence or two.
  """
  print(f"time_jax: note: {text}", file=sys.stderr)
