"""`python -m time_jax COMMAND`, the same as `time-jax COMMAND`."""

import os
import select
import sys
import traceback
from typing import TextIO

from time_jax.cli import main as cli_main
from time_jax.core.errors import EXIT_BUG, EXIT_PIPE, without_secrets


def main() -> None:
  """Runs the command that was typed and exits with its code."""
  streams = [stream for stream in (sys.stdout, sys.stderr) if stream]
  try:
    code = cli_main.main(sys.argv[1:])
  except Exception as error:
    # Other pipes break, too, such as those to worker processes.
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
  """Whether a stream is a pipe that nobody reads any more."""
  poll = select.poll()
  poll.register(stream, 0)
  return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard(stream: TextIO) -> None:
  """Lets a stream end nowhere; else the interpreter's end would fail, too."""
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, stream.fileno())
  os.close(nowhere)


if __name__ == "__main__":
  main()
