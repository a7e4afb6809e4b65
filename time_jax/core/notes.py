"""Lines for the user on stderr that are no results."""

import functools
import sys

from time_jax.core.errors import without_secrets


def say(text: str) -> None:
  """Prints a line at once, without the secrets in it.

  Args:
    text: a sentence or two.
  """
  print(f"time_jax: {without_secrets(text)}", file=sys.stderr, flush=True)


@functools.cache
def note(text: str) -> None:
  """Prints what is no error but worth a line, once in a process.

  Args:
    text: a sentence or two.
  """
  say(f"note: {text}")
