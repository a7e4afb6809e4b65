"""`python -m time_jax COMMAND`, the same as `time-jax COMMAND`."""

import os
import select
import sys
import traceback
from typing import TextIO

from time_jax.core.errors import (
  EXIT_BUG,
  EXIT_INTERRUPTED,
  EXIT_PIPE,
  without_secrets,
)


def main() -> None:
  """Runs the command that was typed and exits with its code."""
  streams = [stream for stream in (sys.stdout, sys.stderr) if stream]
  try:
    # Not above, because Ctrl-C may come while it is imported.
    from time_jax.cli import main as cli_main

    code = cli_main.main(sys.argv[1:])
  except KeyboardInterrupt:
    code = EXIT_INTERRUPTED
  except Exception as error:
    # A pipe to a worker process may break as well, which is a bug.
    if isinstance(error, BrokenPipeError) and any(map(_is_broken, streams)):
      code = EXIT_PIPE
    else:
      print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
      code = EXIT_BUG
  for stream in streams:
    try:
      stream.flush()
    except OSError as error:
      code = EXIT_PIPE if isinstance(error, BrokenPipeError) else code
      _discard(stream)
  sys.exit(code)


def _is_broken(stream: TextIO) -> bool:
  """Whether a stream is a pipe whose reader is gone."""
  poll = select.poll()
  poll.register(stream, 0)
  return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard(stream: TextIO) -> None:
  """Redirects a stream to /dev/null, so that the flush at exit succeeds."""
  null = os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, stream.fileno())
  os.close(null)


if __name__ == "__main__":
  main()
