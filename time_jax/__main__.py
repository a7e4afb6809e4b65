"""`python -m time_jax COMMAND`, the same as `time-jax COMMAND`."""

import os
import select
import sys
import traceback

from time_jax import cli
from time_jax.errors import EXIT_BUG, EXIT_PIPE, without_secrets


def main() -> None:
  """Runs the command that was typed and exits with its code."""
  try:
    code = cli.main(sys.argv[1:])
    for stream in filter(None, (sys.stdout, sys.stderr)):
      stream.flush()
  except Exception as error:
    if isinstance(error, BrokenPipeError) and _stop_writing():
      code = EXIT_PIPE
    else:
      print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
      code = EXIT_BUG
  sys.exit(code)


def _stop_writing() -> bool:
  """Turns output that nobody reads any more to where nothing is read.

  Else the interpreter would fail once more when it ends. Other pipes break,
  too, such as those to worker processes.

  Returns:
    Whether there was such output.
  """
  broken = [
    stream.fileno()
    for stream in (sys.stdout, sys.stderr)
    if stream and _is_broken(stream.fileno())
  ]
  for number in broken:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
  return bool(broken)


def _is_broken(number: int) -> bool:
  poll = select.poll()
  poll.register(number, 0)
  return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
  main()
